"""Writes sacroml.json: what sacroml (the TREvolution/SACRO project's checks of models, PyPI) says of made-up models.

usage: python make_sacroml.py > sacroml.json

sacroml 2.0.1 needs torch, xgboost and more, over 2 GB with what they need, so it does not run in the tests; what it said
is kept here instead, with the versions that said it (torch 2.2.1).
"""

import json
import logging
import tempfile

import numpy as np
import scipy
import sklearn
from sacroml import metrics
from sacroml.attacks.structural_attack import StructuralAttack, get_model_param_count
from sacroml.attacks.target import Target
from sacroml.attacks.worst_case_attack import WorstCaseAttack
from sacroml.version import __version__
from scipy.stats import ks_2samp
from sklearn.neural_network import MLPClassifier

logging.disable(logging.CRITICAL)
random = np.random.default_rng(20261121)


def auc_significance():
    cases = [(0.60, 200, 200), (0.5, 7, 9), (0.55, 400, 100), (0.7, 20, 30), (0.52, 5000, 3000), (0.45, 50, 50)]
    return [{"auc": auc, "members": members, "others": others, "p": float(metrics.auc_p_val(auc, members, others)[0])}
            for auc, members, others in cases]


def kolmogorov_smirnov():
    """What StructuralAttack asks of the losses: exact up to 10,000 of either, beyond that not."""
    cases = []
    for n, m, shift in [(5, 5, 1.0), (7, 3, 0.5), (10, 10, 0.0), (12, 30, 0.6), (40, 30, 0.4), (100, 100, 0.25),
                        (151, 97, 0.2), (1, 1, 0.0), (2, 50, 1.0), (300, 200, 0.1)]:
        a = np.round(random.gamma(1.0, 1.0, n), 3)
        b = np.round(random.gamma(1.0, 1.0, m) + shift, 3)
        found = ks_2samp(a, b)
        cases.append({"a": a.tolist(), "b": b.tolist(), "distance": float(found.statistic), "p": float(found.pvalue),
                      "risk": bool(found.pvalue < 0.05)})
    return cases


def large_kolmogorov_smirnov():
    """By their sizes and distance alone: a is 0, 1, 2, … and b the same, so much further."""
    cases = []
    for n, m, shift in [(2000, 1500, 60.5), (10000, 9999, 150.5), (12000, 12000, 200.5)]:
        found = ks_2samp(np.arange(n), np.arange(m) * (n / m) + shift)
        cases.append({"n": n, "m": m, "shift": shift, "distance": float(found.statistic), "p": float(found.pvalue)})
    return cases


def answers(count, sure, spread=0.15):
    top = np.clip(sure + random.uniform(-spread, spread, count), 0.34, 0.99)
    share = random.uniform(0.2, 0.8, count)
    rows = np.stack([top, (1 - top) * share, (1 - top) * (1 - share)], axis=1)
    return np.round(random.permuted(rows, axis=1), 5)


def membership():
    cases = []
    for name, members, others in [
            ("remembers much", answers(200, 0.80), answers(200, 0.62)),
            ("remembers something", answers(300, 0.76), answers(300, 0.70)),
            ("remembers nothing", answers(250, 0.70), answers(250, 0.70)),
            ("few rows, nothing", answers(40, 0.70), answers(40, 0.70))]:
        case = {"name": name, "members": members.tolist(), "others": others.tolist()}
        for model in ["sklearn.linear_model.LogisticRegression", "sklearn.ensemble.RandomForestClassifier"]:
            attack = WorstCaseAttack(n_reps=10, test_prop=0.5, n_dummy_reps=0, attack_model=model, write_report=False)
            attack.attack_from_preds(members, others)
            found = attack.attack_metrics
            case[model.split(".")[-1]] = {
                "significant": int(sum(one["P_HIGHER_AUC"] < 0.05 for one in found)),
                "mean_auc": float(np.mean([one["AUC"] for one in found]))}
        cases.append(case)
    return cases


def structure():
    """StructuralAttack on networks that are trained here: degrees of freedom, and the gap between the losses."""
    cases = []
    for rows, hidden, alpha, epochs in [(600, 3, 1.0, 60), (60, 12, 1e-5, 3000), (120, 4, 0.1, 100), (90, 8, 1e-5, 4000)]:
        x = random.normal(0, 1, (2 * rows, 5))
        y = (x[:, 0] + random.normal(0, 1.2, 2 * rows) > 0).astype(int)
        model = MLPClassifier((hidden,), alpha=alpha, max_iter=epochs, random_state=1).fit(x[:rows], y[:rows])
        target = Target(model=model, X_train=x[:rows], y_train=y[:rows], X_test=x[rows:], y_test=y[rows:])
        with tempfile.TemporaryDirectory() as folder:
            attack = StructuralAttack(output_dir=folder, write_report=False)
            attack.attack(target)
        losses = [np.round(target.model.get_losses(target.X_train, target.y_train), 6),
                  np.round(target.model.get_losses(target.X_test, target.y_test), 6)]
        cases.append({
            "rows": rows, "parameters": int(get_model_param_count(model)),
            "too_few_degrees_of_freedom": bool(attack.results.dof_risk), "losses_differ": bool(attack.results.gen_error_risk),
            "training_losses": losses[0].tolist(), "test_losses": losses[1].tolist()})
    return cases


print(json.dumps({
    "made_with": {"sacroml": __version__, "scikit-learn": sklearn.__version__, "scipy": scipy.__version__,
                  "numpy": np.__version__},
    "auc_significance": auc_significance(), "kolmogorov_smirnov": kolmogorov_smirnov(),
    "large_kolmogorov_smirnov": large_kolmogorov_smirnov(), "membership": membership(), "structure": structure(),
}, indent=None, separators=(",", ":")))
