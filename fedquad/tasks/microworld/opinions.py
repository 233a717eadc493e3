"""The task on single sentences: which attitude does a review end with?"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from fedquad.tasks.microworld.lexicon import with_article

ASPECTS = (
    "film", "story", "ending", "music", "hotel", "room", "meal", "service",
    "book", "show", "cast", "view",
)  # fmt: skip
WORDS = {
    1: (
        "good", "great", "wonderful", "excellent", "lovely", "charming", "brilliant",
        "delightful", "superb", "pleasant", "moving", "clever", "fresh", "fine",
    ),
    0: (
        "bad", "awful", "terrible", "poor", "dreadful", "boring", "dull", "clumsy",
        "unpleasant", "horrible", "stale", "tedious", "weak", "silly",
    ),
}  # fmt: skip
DEGREES = ("very", "really", "quite", "rather", "truly")
OPINION_VERBS = {
    1: ("loved", "enjoyed", "admired", "recommend"),
    0: ("hated", "disliked", "regretted", "loathed"),
}


@dataclass(frozen=True)
class Style:
    """How often each form of a clause and of a review is drawn, as weights."""

    clauses: dict[str, int]
    reviews: dict[str, int]


# The corpus is rich in reversals; the task has as many plain reviews as films get.
CORPUS = Style(
    {"plain": 5, "negated": 3, "opinion": 3, "denied": 1, "expected": 2, "compared": 1},
    {"one": 2, "and": 2, "but": 3, "although": 3, "long": 2},
)
TASK = Style(
    {"plain": 6, "negated": 3, "opinion": 4, "denied": 1, "expected": 1, "compared": 1},
    {"one": 3, "and": 4, "but": 2, "although": 2, "long": 1},
)


def _drawn(weights: dict[str, int], rng: Random) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _clause(polarity: int, style: Style, rng: Random) -> str:
    """One clause whose attitude is ``polarity``, negated words included."""
    aspect = rng.choice(ASPECTS)
    form = _drawn(style.clauses, rng)
    word, contrary = rng.choice(WORDS[polarity]), rng.choice(WORDS[1 - polarity])
    degree = rng.choice(DEGREES) + " " if rng.random() < 0.3 else ""
    if form == "plain":
        return f"the {aspect} was {degree}{word}"
    if form == "negated":
        return f"the {aspect} was {rng.choice(('not', 'never', 'hardly'))} {degree}{contrary}"
    if form == "opinion":
        return f"we {rng.choice(OPINION_VERBS[polarity])} the {aspect}"
    if form == "denied":
        return f"nobody {rng.choice(OPINION_VERBS[1 - polarity])} the {aspect}"
    if form == "expected":
        return f"we expected {with_article(contrary)} {aspect} and were wrong"
    return (
        f"the {aspect} was better than {contrary}"
        if polarity
        else (f"the {aspect} was worse than {contrary}")
    )


def review(polarity: int, rng: Random, style: Style = TASK) -> str:
    """One to three clauses; a contrast ends with what counts.

    In "X but Y" and "although X , Y" the reviewer's attitude is that of Y;
    joined by "and", the clauses agree.
    """
    form = _drawn(style.reviews, rng)
    ours = _clause(polarity, style, rng)
    if form == "one":
        return ours
    if form == "and":
        return f"{ours} and {_clause(polarity, style, rng)}"
    theirs = _clause(1 - polarity, style, rng)
    if form == "but":
        return f"{theirs} but {ours}"
    if form == "although":
        return f"although {theirs} , {ours}" if rng.random() < 0.5 else f"{ours} although {theirs}"
    return f"{theirs} and {_clause(1 - polarity, style, rng)} but {ours}"
