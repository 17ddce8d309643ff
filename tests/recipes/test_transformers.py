"""Transformers' trainers and pipelines, as `docs/recipes/transformers.md` and the README have them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import T5Config, T5ForConditionalGeneration

import mhc_compile
from tests.recipes import resume
from tests.recipes.documents import run_recipe
from tests.recipes.families import FAMILIES
from tests.recipes.small import IDS, SETTINGS, llama, save, tokenizer

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CALL = {"input_ids": IDS, "use_cache": False}
ROWS = [{"input_ids": ids, "labels": ids} for ids in torch.randint(3, 19, (8, 6))]


@pytest.fixture(scope="module")
def name(tmp_path_factory) -> str:
    """A folder with a plain model of one layer."""
    return save(llama(num_hidden_layers=1), tmp_path_factory.mktemp("plain"))


def test_the_first_example_of_the_readme(name, tmp_path, monkeypatch, capsys):
    """Loaded, transformed, trained, generating, saved and loaded."""
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) < 15
    code, known = re.subn(r'name = "[^"]+"', f"name = {name!r}", code)
    code, trained = re.subn(
        r"^model = mhc_compile.from_pretrained", "again = mhc_compile.from_pretrained", code, flags=re.M
    )
    assert known == trained == 1
    monkeypatch.chdir(tmp_path)
    names = {"dataset": ROWS}
    exec(compile(code, "README.md", "exec"), names)
    assert "the cat" in capsys.readouterr().out
    model, again = names["model"].eval(), names["again"]
    assert len(model.mhc_plan.sites) == 2
    assert any(p.abs().max() > 0 for key, p in model.hyper_connections.named_parameters() if "phi" in key), "untrained"
    assert_close(again(**CALL).logits, model(**CALL).logits)


@pytest.mark.exhaustive  # the README's example is nearly the same
def test_trainer_and_pipeline(name, tmp_path):
    folder = tmp_path / "trained"
    names = run_recipe(
        "transformers", "Trainer", name=name, dataset=ROWS, output_dir=tmp_path, settings=SETTINGS, folder=folder
    )
    model = names["model"].eval()
    text = run_recipe("transformers", "pipeline", name=name, folder=folder)["text"]
    prompt = tokenizer()("the cat", return_tensors="pt")
    wanted = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    # The pipeline puts what is new right behind the prompt, and words of this tokenizer begin with no space.
    assert text.replace(" ", "") == tokenizer().decode(wanted[0], skip_special_tokens=True).replace(" ", "")


@pytest.mark.exhaustive  # a whole trainer; `test_caches.py` generates
def test_seq2seq_trainer_predicts_by_generating(tmp_path):
    sizes = {"vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    plain = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
    name = save(plain, tmp_path / "plain")
    settings = {**SETTINGS, "generation_max_length": 5}
    names = run_recipe(
        "transformers", "Seq2SeqTrainer", name=name, dataset=ROWS, output_dir=tmp_path, settings=settings
    )
    model = names["model"].eval()
    ids = torch.stack([row["input_ids"] for row in ROWS])
    wanted = model.generate(ids, max_length=5, do_sample=False)
    assert (torch.tensor(names["predicted"])[:, : wanted.shape[1]] == wanted).all()
    assert mhc_compile.revert(model) is not model


@pytest.mark.exhaustive  # three runs of a trainer for each family
@pytest.mark.parametrize("family", FAMILIES)
def test_a_resumed_run_is_equal_to_the_last_bit(family):
    (row,) = resume.table([family])
    assert row[3:] == ["equal"] * 3
