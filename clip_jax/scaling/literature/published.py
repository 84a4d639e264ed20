"""Expected results of a correct fitter on published tables. Facts with their sources, no data.

Each entry: what -> (expected, tolerance, relative?, source). ``published``: printed by the source; ``refit``: no number
was printed, the optimum was found independently (scipy, many starts) before this fitter existed.
"""

from __future__ import annotations

Expected = dict[str, tuple[float, float, bool, str]]
P, R = "published", "refit"


def _five(
    a: float, b: float, e: float, alpha: float, beta: float, power: float, factor: float, status: str
) -> Expected:
    """Return the five parameters: A, B within ``factor`` (relative), E, alpha and beta within ``power``."""
    return {
        "A": (a, factor, True, status), "B": (b, factor, True, status), "E": (e, power, False, status),
        "alpha": (alpha, power, False, status), "beta": (beta, power, False, status),
    }  # fmt: skip


# Besiroglu, Erdil, Barnett and You (2024), "Chinchilla Scaling: A replication attempt": their notebook and tables
CHINCHILLA: dict[str, Expected] = {
    "C1 Huber 1e-3, 240 rows": {
        "objective": (0.00101827401780, 1e-8, True, R),
        **_five(477.826, 2143.42, 1.817218, 0.347310, 0.367172, 1e-5, 1e-3, P),
    },
    "C2 least absolute deviations": {
        "sum |r|": (1.12949466, 1e-8, True, R),
        **_five(482.01, 2085.43, 1.81686, 0.34781, 0.36585, 1e-4, 1e-3, P),
    },
    "C3 standard errors, 4000 resamples": {
        "A": (124.52, 0.05, True, P), "B": (1293.28, 0.05, True, P), "E": (0.02566, 0.05, True, P),
        "alpha": (0.01540, 0.05, True, P), "beta": (0.02060, 0.05, True, P),
    },
    "C4 95 % intervals": {
        "A low": (285.2, 0.08, True, P), "A high": (743.6, 0.08, True, P),
        "B low": (1042.4, 0.08, True, P), "B high": (5810.4, 0.08, True, P),
        "E low": (1.769, 0.03, True, P), "E high": (1.871, 0.03, True, P),
        "alpha low": (0.317, 0.03, True, P), "alpha high": (0.373, 0.03, True, P),
        "beta low": (0.331, 0.03, True, P), "beta high": (0.415, 0.03, True, P),
    },
    "C5 Huber 1e-3, all 245 rows": _five(495.73, 12845.6, 1.89134, 0.34931, 0.45305, 1e-4, 1e-3, R),
    "C6 squares of logs, 240 rows": _five(593.32, 4875.6, 1.86455, 0.36025, 0.40588, 1e-4, 1e-3, R),
    "C7 squares of logs, all 245 rows": _five(749.54, 370523.0, 1.99183, 0.37210, 0.61205, 1e-4, 1e-3, R),
    "allocation of C1": {
        "exponent of N*": (0.5139, 1e-4, False, R), "exponent low": (0.480, 0.01, True, R),
        "exponent high": (0.556, 0.01, True, R), "tokens per parameter at C = 6·70e9·1.4e12": (17.9, 0.05, False, R),
    },
}  # fmt: skip

# Cherti et al. (2023), "Reproducible scaling laws for contrastive language-image learning", and its repository
CHERTI: dict[str, Expected] = {
    "O1 ImageNet error, binned frontier": {"k": (5.86, 0.005, False, P), "s": (-0.1114, 2e-4, False, P)},
    "O2 ImageNet error, CLIP-WIT": {"k": (23.18, 0.005, False, P), "s": (-0.1638, 2e-4, False, P)},
    "O3 COCO image R@5 error, binned frontier": {"k": (2.75, 0.005, False, P), "s": (-0.0794, 2e-4, False, P)},
    "O4 COCO image R@5 error, CLIP-WIT": {"k": (1.59, 0.005, False, P), "s": (-0.0508, 2e-4, False, P)},
    "O5 ImageNet error, strict Pareto frontier": {"k": (5.88, 0.005, False, R), "s": (-0.1110, 2e-4, False, R)},
    "O6 ImageNet error, all 29 runs": {"k": (4.96, 0.005, False, R), "s": (-0.1012, 2e-4, False, R)},
    "O7 accuracy that O1 predicts, %": {
        "G/14 34B": (80.47265350609142, 1e-6, False, P),
        "G/14 68B": (81.92359948325202, 1e-6, False, P),
        "H/14 34B": (78.10783389945432, 1e-6, False, P),
    },
    "H/14 34B from runs below 1.2e12 GMAC": {
        "binned": (0.7872, 1e-4, False, R), "strict Pareto": (0.7759, 1e-4, False, R),
    },
}  # fmt: skip


def _shifted(a: float, b: float, rmse: float, points: int) -> Expected:
    return {
        "points": (points, 0, False, R), "a": (a, 0.03, True, R), "b": (b, 0.003, False, R),
        "rmse": (rmse, 1e-3, True, R),
    }  # fmt: skip


# Nezhurina et al. (2025), "Scaling laws for robust comparison of open foundation language-vision models and datasets"
DATACOMP: dict[str, Expected] = {
    "N1 clip, strict Pareto": _shifted(65.66, 0.2322, 0.01346, 42),
    "N2 mammut, strict Pareto": _shifted(93.9, 0.2413, 0.008811, 44),
    "N3 clip, binned frontier": _shifted(52.31, 0.2203, 0.014425, 23),
    "N4 mammut, binned frontier": _shifted(94.86, 0.2420, 0.0083968, 25),
    "N3 and N4": {
        "crossing, GFLOPs": (9.2e10, 0.02, True, R), "N4 at 2.59e12 GFLOPs, accuracy": (0.815, 0.0005, False, R),
    },
}  # fmt: skip
DATACOMP_RUNS: dict[str, Expected] = {
    "clip, binned frontier of all runs": {
        **_shifted(59.48, 0.2280, 0.01269, 24), "forecast of the largest run": (0.260, 0.001, False, R),
    },
    "mammut, binned frontier of all runs": {
        **_shifted(123.7, 0.2551, 0.00752, 26), "forecast of the largest run": (0.263, 0.001, False, R),
    },
}  # fmt: skip

# Gadre et al. (2024), "Language models scale reliably with over-training and on downstream tasks"
GADRE: dict[str, Expected] = {
    "loss law, 5 runs": {
        "a": (113.7, 1e-3, True, R), "b": (189.5, 1e-3, True, R), "eta": (0.24247, 1e-4, False, R),
        "E": (1.50826, 1e-4, False, R),
    },
    "error law, 6 runs": {
        "top": (0.84974, 1e-4, False, R), "k": (2.0789, 1e-3, True, R), "gamma": (0.75612, 1e-3, True, R),
    },
    "predictions": {
        "loss of 1.4B at M=80": (2.50945, 1e-4, False, R), "loss of 6.9B at M=20": (2.27990, 1e-4, False, R),
        "error of 6.9B at M=20": (0.47892, 1e-4, False, R),
    },
}  # fmt: skip

# Porian et al. (2024), "Resolving discrepancies in compute-optimal scaling of language models"
PORIAN: dict[str, Expected] = {
    "Kaplan's setup": {
        "exponent, OLS": (0.833768, 1e-5, False, P), "exponent, weights 1/sd²": (0.835300, 1e-5, False, P),
    },
    "tuned setup": {
        "exponent, OLS": (0.497029, 1e-5, False, P), "exponent, weights 1/sd²": (0.496895, 1e-5, False, P),
    },
}  # fmt: skip
PORIAN_ISOFLOP: dict[str, Expected] = {
    "Kaplan's setup": {"exponent, Akima": (0.835, 0.01, False, P)},
    "tuned setup": {"exponent, Akima": (0.497, 0.01, False, P)},
}

# Open-Athena's scaling-law analysis of Marin's IsoFLOP runs (2026), and the README of vpnls
MARIN: dict[str, Expected] = {
    "Huber 1e-3 of the loss, 88 rows": {
        "objective, mean": (2.260849e-05, 1e-5, True, P), "E": (2.53461, 1e-3, False, R),
        "A": (21.20572, 0.01, True, R), "B": (0.93243, 0.01, True, R),
        "alpha": (0.64426, 1e-3, False, R), "beta": (0.40410, 1e-3, False, R),
    },
    "parabolas": {"exponent of N*": (0.4224, 1e-4, False, R), "exponent of D*": (0.5532, 1e-4, False, R)},
}  # fmt: skip

# Caballero et al. (2023), "Broken neural scaling laws", figure 4
BNSL: dict[str, Expected] = {
    "fit of the first 14 rows in log(1+y)": {"RMSLE on the last three, at most": (0.03, 0.0, False, R)}
}
