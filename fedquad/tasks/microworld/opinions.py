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
class Mix:
    """How often each form of a clause, and of a review, is drawn."""

    clauses: dict[str, int]
    reviews: dict[str, int]


# People mostly say what they mean: a bag of words gets 72 % of these reviews right, the rest takes
# negation, contrast and, where a review weighs five things, counting.
PEOPLE = Mix(
    clauses={"plain": 10, "negated": 2, "opinion": 6, "denied": 1, "expected": 1, "compared": 2},
    reviews={"one": 5, "and": 5, "but": 2, "although": 1, "weighed": 3},
)
# For pretraining, where no word may give an attitude away: contrasts and negations everywhere.
BALANCED = Mix(
    clauses={"plain": 5, "negated": 3, "opinion": 3, "denied": 1, "expected": 2, "compared": 1},
    reviews={"one": 2, "and": 2, "but": 3, "although": 3, "long": 2},
)


def _draw(weights: dict[str, int], rng: Random) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _clause(polarity: int, rng: Random, mix: Mix) -> str:
    """One clause whose attitude is ``polarity``, negated words included."""
    aspect = rng.choice(ASPECTS)
    form = _draw(mix.clauses, rng)
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


def review(polarity: int, rng: Random, mix: Mix = PEOPLE) -> str:
    """One to five clauses; a contrast ends with what counts, a list goes by its majority.

    In "X but Y" and "although X , Y" the reviewer's attitude is that of Y;
    joined by "and", two clauses agree, and of five three do.
    """
    form = _draw(mix.reviews, rng)
    ours = _clause(polarity, rng, mix)
    if form == "one":
        return ours
    if form == "and":
        return f"{ours} and {_clause(polarity, rng, mix)}"
    theirs = _clause(1 - polarity, rng, mix)
    if form == "but":
        return f"{theirs} but {ours}"
    if form == "although":
        return f"although {theirs} , {ours}" if rng.random() < 0.5 else f"{ours} although {theirs}"
    if form == "long":
        return f"{theirs} and {_clause(1 - polarity, rng, mix)} but {ours}"
    clauses = [ours, theirs, *(_clause(attitude, rng, mix) for attitude in (polarity, polarity))]
    clauses.append(_clause(1 - polarity, rng, mix))
    rng.shuffle(clauses)
    return " , ".join(clauses[:-1]) + f" and {clauses[-1]}"
