"""What today's method says of the icons' largest budget from the seven below it.

    python benchmarks/icons_forecast_again.py [--out=FILE.json]

The runs of that budget were known when this was made, so it is no registered forecast: the file says so, and grading
refuses it. `forecast.json` beside it is the one that was registered, by the method of its day.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from clip_jax.config.io import from_dict
from clip_jax.config.sweep import SweepConfig
from clip_jax.scaling.data.chance import chance_of
from clip_jax.scaling.planning.preregistration import MADE_AFTER, preregister
from clip_jax.sweep.analysis.forecast import pictures_of

FOLDER = Path(__file__).parents[1] / "experiments" / "results" / "icons"
OUT = FOLDER / "forecast_averaged.json"


def forecast():
    config = from_dict(SweepConfig, json.loads((FOLDER / "sweep.json").read_text()))
    registered = json.loads((FOLDER / "forecast.json").read_text())
    target = registered["target"]
    runs, evals = (pd.read_csv(FOLDER / name, dtype={"run_id": str}) for name in ("runs.csv", "evals.csv"))
    below, seen = (table[table["budget"] < target * 0.999] for table in (runs, evals))
    return {
        MADE_AFTER: True,
        **preregister(
            below, config.metric, target, seeds=registered["noise"]["seeds"],
            pictures=pictures_of(seen, config, config.metric), chance=chance_of(seen, config.metric),
        ),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    forecasted = forecast()
    args.out.write_text(json.dumps(forecasted, indent=1, allow_nan=False) + "\n")
    print(f"{forecasted['predicted']:.4f}, mean of seeds {forecasted['mean']}, curve {forecasted['curve']}")
    print(f"weights {forecasted['weights']}; rehearsed {[r['inside'] for r in forecasted['rehearsals']]}")


if __name__ == "__main__":
    main()
