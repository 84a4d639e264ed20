"""A search: proposes, halves, goes on where it stopped, says where the best lies. Training is planted."""

import dataclasses
import json
import math

import pandas as pd
import pytest

from clip_jax.cli.main import main
from clip_jax.config import EvalConfig, OptimConfig, RunConfig
from clip_jax.config.io import from_dict
from clip_jax.config.presets import preset
from clip_jax.errors import ConfigError
from clip_jax.sweep.search.config import SearchConfig, apply
from clip_jax.sweep.search_driver import run_search
from clip_jax.train.loop import train

from ..user_errors import error_fields, raises_user_error
from ..whole_result import WHOLE_TEXT

BASE = RunConfig(
    model=preset("debug"), steps=40, batch_size=8, evals=EvalConfig(at_fractions=(0.25, 0.5)),
    optim=OptimConfig(warmup_steps=2),
)  # fmt: skip
SEARCH = SearchConfig(
    name="s", base=BASE, method="grid", seeds=(0, 1), survivor_fraction=0.5,
    space=("optim.peak_lr = log(1e-4, 1e-1, 7)", "optim.weight_decay = choice(0, 0.1)"),
)  # fmt: skip


class Planted:
    """An engine whose runs end at once: error least at a rate of 1e-3 and with decay, and falling with the steps."""

    name, max_in_flight, max_jobs_per_submit, poll_s = "local", None, 100, 0.0

    def __init__(self, die_after=10**9, fails=lambda config: False):
        self.submitted, self.die_after, self.fails = [], die_after, fails

    def submit(self, name, jobs):
        for job in jobs:
            if len(self.submitted) == self.die_after:
                raise KeyboardInterrupt
            run_dir = job.run_dirs[0]
            config = from_dict(RunConfig, json.loads((run_dir / "request.json").read_text()))
            self.submitted.append((run_dir.name, job.until))
            if self.fails(config):
                (run_dir / "exit.json").write_text(json.dumps({"name": name, "code": 2}))
                continue
            done = job.until or config.steps
            off = (math.log10(config.optim.peak_lr) + 3) ** 2 + 0.3 * (config.optim.weight_decay == 0)
            with (run_dir / "evals.jsonl").open("w") as file:
                for step in (10, 20, 40):
                    if step <= done:
                        value = 0.1 + 0.05 * off + 1 / step + 0.001 * config.seed
                        row = {"step": step, "task": "zero_shot_mean", "metric": "error", "value": value}
                        file.write(json.dumps(row) + "\n")
            (run_dir / "checkpoints" / str(done)).mkdir(parents=True)
            if not job.until:
                (run_dir / "result.json").write_text(WHOLE_TEXT)

    def poll(self, run_dirs):
        return {}

    def cancel(self, run_dirs):
        pass

    def detach(self):
        pass


def test_run_search_finds_the_planted_best_with_few_full_runs(tmp_path):
    engine, lines = Planted(), []
    search = run_search(SEARCH, tmp_path, lines.append, engine)
    assert search["setting"] == {"optim.peak_lr": 1e-3, "optim.weight_decay": 0.1}
    assert search["fields"] == ["--optim.peak_lr=0.001", "--optim.weight_decay=0.1"]
    assert search["warnings"] == []
    assert [sum(u == until for _, u in engine.submitted) for until in (10, 20, 0)] == [28, 14, 8]
    table = pd.read_csv(tmp_path / "search.csv")
    assert list(table["state"].value_counts().loc[["ended", "dropped"]]) == [4, 10]
    assert search["flops"] == pytest.approx(table["flops"].sum())
    best = table.loc[table["error_mean"].idxmin()]
    assert best["optim.peak_lr"] == 1e-3
    assert best["sd"] == pytest.approx(0.001 / math.sqrt(2))
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")


def test_run_search_resumes_to_the_same_end(tmp_path):
    whole = run_search(SEARCH, tmp_path / "a", lambda line: None, Planted())
    with pytest.raises(KeyboardInterrupt):
        run_search(SEARCH, tmp_path / "b", lambda line: None, Planted(die_after=33))
    again = Planted()
    assert run_search(SEARCH, tmp_path / "b", lambda line: None, again) == whole
    assert 0 < len(again.submitted) < 50 - 32


def test_run_search_warns_of_an_optimum_at_the_edge(tmp_path):
    low = dataclasses.replace(SEARCH, space=("optim.peak_lr = log(1e-2, 1e-1, 3)",))
    lines = []
    search = run_search(low, tmp_path, lines.append, Planted())
    assert search["warnings"] == ["optim.peak_lr=0.01 lies on the lower edge (0.01) of its range; widen it"]
    assert any("warning: optim.peak_lr=0.01" in line for line in lines)


def test_run_search_skips_failed_trials(tmp_path):
    search = run_search(
        SEARCH, tmp_path, lambda line: None, Planted(fails=lambda c: c.optim.peak_lr == 1e-3 and c.seed == 1)
    )
    assert search["setting"]["optim.peak_lr"] in (pytest.approx(3.162e-4), pytest.approx(3.162e-3))
    assert search["failed"] == 2
    with raises_user_error(field=tmp_path / "all", hint="sweep logs"):
        run_search(SEARCH, tmp_path / "all", lambda line: None, Planted(fails=lambda c: True))


def test_run_search_in_a_directory_of_another_search_is_refused(tmp_path):
    run_search(SEARCH, tmp_path, lambda line: None, Planted())
    other = dataclasses.replace(SEARCH, seeds=(0,))
    with raises_user_error(field=tmp_path, reason="seeds is [0, 1] there and [0] here"):
        run_search(other, tmp_path, lambda line: None, Planted())
    assert main(["sweep", "status", f"--dir={tmp_path}"]) == 0


@pytest.mark.parametrize(
    ("changes", "attributes"),
    [
        ({"method": "best"}, {"field": "method", "value": "best"}),
        ({"space": ("optim.rate = log(1e-4, 1e-1, 7)",)}, {"source": "space", "field": "optim.rate"}),
        ({"space": ("optim.b1 = uniform(2, 3, 2)",)}, {"field": "optim.b1", "value": 2.5}),
        ({"space": ("optim.peak_lr = log(1e-4, 1e-1)",)}, {"source": "space", "field": "optim.peak_lr"}),
        ({"trials": 3}, {"field": "trials"}),
        ({"trials_per_round": 2}, {"field": "trials_per_round"}),
        (
            {"base": dataclasses.replace(BASE, evals=EvalConfig())},
            {"field": "survivor_fraction"},
        ),
        ({"seeds": (1, 1)}, {"field": "seeds", "value": (1, 1)}),
        ({"metric": "accuracy"}, {"field": "metric", "value": "accuracy"}),
    ],
)
def test_search_config_with_a_wrong_setting_names_it(changes, attributes):
    with raises_user_error(ConfigError, **attributes):
        dataclasses.replace(SEARCH, **changes)


def test_apply_sets_only_the_named_fields():
    run = apply(BASE, {"optim.peak_lr": 0.5, "model.image.patch_dropout": 0.5})
    assert (run.optim.peak_lr, run.model.image.patch_dropout) == (0.5, 0.5)
    assert dataclasses.replace(run, optim=BASE.optim, model=BASE.model) == BASE


@pytest.mark.thorough
def test_train_until_pauses_and_resumes(tmp_path, capsys):
    config = tmp_path / "c.json"
    small = {"model": {"image": {"width": 16, "depth": 1, "heads": 2, "image_size": 32, "patch_size": 16},
                       "text": {"width": 16, "depth": 1, "heads": 2, "context_length": 20, "vocab_size": 512},
                       "embed_dim": 16},
             "steps": 4, "batch_size": 8, "optim": {"warmup_steps": 1}, "data": {"tokenizer_train_captions": 200},
             "evals": {"zero_shot": [], "val_pairs": 16, "retrieval_images": 16}, "wandb": "disabled"}  # fmt: skip
    config.write_text(json.dumps(small))
    run = f"--dir={tmp_path / 'run'}"
    assert main(["train", f"--config={config}", run, "--quiet", "--until=2"]) == 0
    assert "paused at step 2" in capsys.readouterr().out
    assert not (tmp_path / "run" / "result.json").exists()
    assert train(from_dict(RunConfig, small), tmp_path / "run", progress=False)["steps"] == 4
    assert main(["train", f"--config={config}", run, "--until=5"]) == 2
    assert error_fields(capsys.readouterr().err) == ["--until"]
