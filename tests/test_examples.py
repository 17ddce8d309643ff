"""Every example in a short form, and what it is there to show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples import (
    demo,
    hf_llama,
    hf_trainer,
    inspect_model,
    lightning_gpt,
    train_char_gpt,
    train_compiled,
    upcycle_vit,
)
from tests.tables import also

EXAMPLES = {
    demo,
    hf_llama,
    hf_trainer,
    inspect_model,
    lightning_gpt,
    train_char_gpt,
    train_compiled,
    upcycle_vit,
}


def test_every_example_is_tested_here():
    files = Path(demo.__file__).parent.glob("*.py")
    assert {path.stem for path in files} == {module.__name__.rpartition(".")[2] for module in EXAMPLES}


def test_inspect_model_prints_report_and_plan(capsys):
    inspect_model.main(["timm:vit_tiny_patch16_224", "--n", "2"])
    printed = capsys.readouterr().out
    assert "n = 2" in printed
    assert "24 residual adds; the first keys are ['blocks.0.attn', 'blocks.0.mlp']" in printed
    assert "{'BROADCAST': 1}" in printed


def test_a_gpt_trains_through_the_backend_as_through_transform(capsys):
    assert train_compiled.main(["--short", "--inner", "eager"]) <= 1e-4
    assert "eager: 6,252 new parameters" in capsys.readouterr().out


@pytest.mark.slow
def test_both_gpts_start_at_the_same_loss_and_train(capsys):
    train_char_gpt.main(["--short", "--lr", "0.01"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if re.match(r" +\d", line)]
    steps, vanilla, hyper = zip(*[(int(s), float(v), float(h)) for s, v, h in rows], strict=True)
    assert steps == (1, 4, 8, 12)
    assert hyper[0] == pytest.approx(vanilla[0], abs=1e-3)
    assert vanilla[-1] < vanilla[0]
    assert hyper[-1] < hyper[0]
    assert hyper != vanilla, "the streams learned nothing"


@pytest.mark.slow
def test_demo_upcycles_a_vit_without_changing_its_outputs(capsys):
    demo.main(["--short"])
    printed = capsys.readouterr().out
    assert "24 in 1 segment" in printed
    assert float(re.search(r"before and after differ by (\S+) of", printed)[1]) < upcycle_vit.TOLERANCE
    assert float(re.search(r"moved by up to (\S+)", printed)[1]) > 0
    assert float(re.search(r"VisionTransformer, differing by (\S+) of", printed)[1]) > 0


def test_upcycling_stops_with_a_message_if_outputs_change(monkeypatch):
    monkeypatch.setattr(upcycle_vit, "relative_difference", lambda *models_and_images: 0.5)
    with pytest.raises(SystemExit, match="computes something else"):
        upcycle_vit.main(["--short", "--steps", "0"])


@pytest.mark.exhaustive  # the next one does the same under a trainer
def test_llama_keeps_its_loss_trains_and_survives_a_checkpoint(capsys):
    hf_llama.main(["--steps", "4"])
    printed = capsys.readouterr().out
    before, after = re.search(r"loss (\S+) before, (\S+) after", printed).groups()
    assert float(after) == pytest.approx(float(before), rel=1e-4)
    losses = [float(loss) for loss in re.findall(r"step \d: loss (\S+)", printed)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert "saved, loaded into a fresh model, and the outputs agree" in printed


@pytest.mark.parametrize("options", [["--gradient-checkpointing"], *also([])])
def test_a_llama_trains_and_resumes_under_the_trainer(options, capsys):
    losses = hf_trainer.main(options)
    assert losses[-1] < 0.7 * losses[0]
    assert "saved, loaded into a fresh model, and the outputs agree" in capsys.readouterr().out


def test_a_gpt_trains_and_resumes_under_lightning(capsys):
    losses = lightning_gpt.main([])
    assert losses[16] < losses[8] < losses[0], "the checkpoint was not resumed, or nothing was learned"
    assert "16 + 16 steps" in capsys.readouterr().out
