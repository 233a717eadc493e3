"""The task on single sentences: which attitude does a review end with?"""

from __future__ import annotations

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


def _clause(polarity: int, rng: Random) -> str:
    """One clause whose attitude is ``polarity``, negated words included."""
    aspect = rng.choice(ASPECTS)
    form = rng.choices(
        ("plain", "negated", "opinion", "denied", "expected", "compared"), (5, 3, 3, 1, 2, 1)
    )[0]
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


def review(polarity: int, rng: Random) -> str:
    """One to three clauses; a contrast ends with what counts.

    In "X but Y" and "although X , Y" the reviewer's attitude is that of Y;
    joined by "and", the clauses agree.
    """
    form = rng.choices(("one", "and", "but", "although", "long"), (2, 2, 3, 3, 2))[0]
    ours = _clause(polarity, rng)
    if form == "one":
        return ours
    if form == "and":
        return f"{ours} and {_clause(polarity, rng)}"
    theirs = _clause(1 - polarity, rng)
    if form == "but":
        return f"{theirs} but {ours}"
    if form == "although":
        return f"although {theirs} , {ours}" if rng.random() < 0.5 else f"{ours} although {theirs}"
    return f"{theirs} and {_clause(1 - polarity, rng)} but {ours}"
