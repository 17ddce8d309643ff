"""TRL's trainers on transformed models, as `docs/recipes/trl.md` has them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.hyper_connections import HyperConnections
from tests.recipes.documents import run_recipe
from tests.recipes.small import IDS, SETTINGS, llama, save, sentences, tokenizer, unmoved, values

pytest.importorskip("trl")
from datasets import Dataset
from transformers import PreTrainedModel

pytestmark = pytest.mark.exhaustive  # `make exhaustive` installs TRL

CALL = {"input_ids": IDS, "use_cache": False}
PROMPTS, CHOSEN, REJECTED = sentences(16, 4), sentences(16, 5, seed=1), sentences(16, 6, seed=2)
PREFERENCES = [
    {"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"}
    for prompt, chosen, rejected in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
]


@pytest.fixture(scope="module")
def name(tmp_path_factory) -> str:
    """A folder with a plain model."""
    return save(llama(), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def policy() -> nn.Module:
    """With hyper-connections that matter: the plain model computes something else."""
    model = mhc_compile.transform(llama().eval(), n=4, example_kwargs=CALL, modes=("eval",))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.hyper_connections.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    assert (model(**CALL).logits - llama().eval()(**CALL).logits).abs().max() > 0.02
    return model


@pytest.fixture(scope="module")
def folder(policy, tmp_path_factory) -> str:
    return save(policy, tmp_path_factory.mktemp("policy"))


@pytest.fixture
def moved(monkeypatch) -> dict[str, bool]:
    """Name of each parameter that a recipe has trained -> whether it is another one after it."""
    from transformers import Trainer

    found: dict[str, bool] = {}
    train = Trainer.train

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = values(self.model)
        result = train(self, *args, **kwargs)
        still = unmoved(self.model, before)
        found.update({name: name not in still for name in before})
        return result

    monkeypatch.setattr(Trainer, "train", watched)
    return found


@pytest.fixture
def switched_back():
    own = PreTrainedModel.__dict__["from_pretrained"]
    yield
    PreTrainedModel.from_pretrained = own


def check_all(moved: dict[str, bool]) -> None:
    assert sum("hyper_connections" in name for name in moved) == 12
    assert not [name for name, other in moved.items() if not other]


def log_probabilities(model: nn.Module) -> Tensor:
    """Of the completions `[pair, (chosen, rejected)]`, by the formula, one at a time."""
    encode = tokenizer()

    def of(pair: dict[str, str], kind: str) -> Tensor:
        ids = torch.tensor([*encode(pair["prompt"] + pair[kind])["input_ids"], encode.eos_token_id])
        start = len(encode(pair["prompt"])["input_ids"])
        scores = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        return sum(scores[at - 1, ids[at]] for at in range(start, len(ids)))

    with torch.no_grad():
        return torch.stack([torch.stack([of(pair, "chosen"), of(pair, "rejected")]) for pair in PREFERENCES])


def given_to_loss(trainer: Any) -> Tensor:
    """What the trainer itself has computed for its reference, `precompute_ref_log_probs` was asked for."""
    columns = (trainer.train_dataset[f"ref_{kind}_logps"][:] for kind in ("chosen", "rejected"))
    return torch.tensor(list(zip(*columns, strict=True)))


SFT = {
    "text": (Dataset.from_dict({"text": [f"{a} {b}" for a, b in zip(PROMPTS, CHOSEN, strict=True)]}), {}),
    "packing": (Dataset.from_dict({"text": CHOSEN}), {"packing": True, "max_length": 16}),
    "completions": (Dataset.from_dict({"prompt": PROMPTS, "completion": [f" {c}" for c in CHOSEN]}), {}),
}


@pytest.mark.parametrize("kind", SFT)
def test_sft_moves_every_parameter_and_saves_what_loads(kind, name, moved, tmp_path) -> None:
    dataset, more = SFT[kind]
    names = run_recipe("trl", "SFT", name=name, dataset=dataset, output_dir=tmp_path, settings={**SETTINGS, **more})
    check_all(moved)
    again = mhc_compile.from_pretrained(tmp_path)
    assert_close(again(**CALL).logits, names["model"].eval()(**CALL).logits)


@pytest.mark.usefixtures("switched_back")
def test_dpo_loads_the_right_reference_by_itself(folder, policy, moved, tmp_path) -> None:
    wanted = log_probabilities(policy)
    run = partial(run_recipe, "trl", "DPO", folder=folder, dataset=Dataset.from_list(PREFERENCES), output_dir=tmp_path)
    names = run(settings=SETTINGS)
    check_all(moved)
    trainer = names["trainer"]
    assert_close(log_probabilities(trainer.ref_model.eval()), wanted)
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)  # log 2: before it learns, it is its reference
    assert trainer.state.log_history[1]["loss"] != pytest.approx(0.693147, abs=1e-4)
    assert_close(mhc_compile.from_pretrained(tmp_path)(**CALL).logits, trainer.model.eval()(**CALL).logits)


def test_dpo_with_an_adapter_refers_to_the_model_without_it_and_merges(folder, policy, moved, tmp_path) -> None:
    settings = {**SETTINGS, "precompute_ref_log_probs": True}
    given = {"folder": folder, "dataset": Dataset.from_list(PREFERENCES), "tokenizer": tokenizer()}
    merged = tmp_path / "merged"
    names = run_recipe(
        "trl", "DPO with an adapter", **given, output_dir=tmp_path, settings=settings, merged_folder=merged
    )
    assert_close(given_to_loss(names["trainer"]), log_probabilities(policy), rtol=1e-4, atol=1e-4)
    check_all(moved)
    assert sum("lora_" in name for name in moved) == 8
    model = names["model"]
    assert type(model.hyper_connections) is HyperConnections
    assert (model.eval()(**CALL).logits - policy(**CALL).logits).abs().max() > 1e-3  # learned
    assert_close(mhc_compile.from_pretrained(merged)(**CALL).logits, model(**CALL).logits)


def test_a_reward_model(name, moved, tmp_path) -> None:
    pairs = Dataset.from_dict(
        {kind: [PROMPTS[i] + pair[kind] for i, pair in enumerate(PREFERENCES)] for kind in ("chosen", "rejected")}
    )
    run_recipe("trl", "Reward model", name=name, dataset=pairs, output_dir=tmp_path, settings=SETTINGS)
    check_all(moved)


def test_grpo(name, moved, tmp_path) -> None:
    settings = {**SETTINGS, "num_generations": 4, "max_completion_length": 3}

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(text.count("a")) for text in completions]

    prompts = Dataset.from_dict({"prompt": PROMPTS})
    run_recipe("trl", "GRPO", name=name, dataset=prompts, reward=reward, output_dir=tmp_path, settings=settings)
    check_all(moved)
