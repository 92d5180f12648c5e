# SPDX-License-Identifier: Apache-2.0
"""How golden numbers of the metrics of generated text are checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metrics.common.generation import per_sample, score, stem

if TYPE_CHECKING:
    from tools.parity import Case

_TOLERANCE = 1e-9
_INFORMATION = "official_meteor_1_5_for_information"  # of the Java program
_NAMES = {
    "exact_match": "exact_match",
    "exact_match_no_articles": "exact_match_no_articles",
    "token_f1": "token_f1",
    **{f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "meteor_lite": "METEOR-lite",
}


def text_metrics(case: Case) -> None:
    """Pairs of texts: one set of them, or a list of small ones."""
    golden = case.json
    if "items" in golden:
        for n, item in enumerate(golden["items"]):
            case.equal(f"{n}/keys", set(item), {"pairs", "expected"})
            _numbers(case, f"{n}/", item["pairs"], item["expected"])
        return
    expected = golden["expected"]
    expected.note(_INFORMATION)
    ours = {key: expected.plain(key) for key in expected if key != _INFORMATION}
    _numbers(case, "", golden["pairs"], ours)


def _numbers(
    case: Case, group: str, pairs: list[Mapping[str, str]], expected: Mapping[str, Any]
) -> None:
    predictions, references = ([pair[key] for pair in pairs] for key in ("pred", "ref"))
    ours, samples = score(predictions, references), per_sample(predictions, references)
    case.equal(f"{group}keys", set(expected), {"n", "per_sample", *_NAMES})
    case.equal(f"{group}n", len(pairs), expected["n"])
    for key, name in _NAMES.items():
        case.close(f"{group}{key}", ours[name], expected[key], _TOLERANCE)
    for key, values in expected["per_sample"].items():
        case.close(f"{group}per_sample/{key}", samples[_NAMES[key]], values, _TOLERANCE)


def stems(case: Case) -> None:
    """Words and their stems."""
    golden = case.json.whole()
    case.equal("stems", {word: stem(word) for word in golden}, golden)
