"""Unlabelled text of the micro-world, on which encoders are pretrained.

It says what a reader of such a world would read: facts, definitions, a fact
told again in other words, questions with their answers, reviews. No sentence
carries a task's label.
"""

from __future__ import annotations

from random import Random

from fedquad.tasks.microworld import lexicon as lex
from fedquad.tasks.microworld.edits import DISTURB, WEAKEN, apply_some
from fedquad.tasks.microworld.facts import draw_fact, infer, say
from fedquad.tasks.microworld.opinions import BALANCED, review
from fedquad.tasks.microworld.pairs import ask, question_about

# How a second sentence is joined to the first, by what follows from it.
CONNECTIVES = {
    "entailment": ("so", "therefore", "in other words"),
    "neutral": ("perhaps", "maybe"),
    "contradiction": ("so it is false that", "nobody would say that"),
}


def definition(rng: Random) -> str:
    """A sentence about words: kinds, synonyms, opposites, places, numbers."""
    topic = rng.choice(("kind", "kind", "synonym", "opposite", "verb", "place", "number"))
    if topic == "kind":
        noun = rng.choice(tuple(lex.PARENT))
        word = rng.choice(lex.NOUN_SYNONYMS.get(noun, (noun,)))
        kind = rng.choice(lex.ancestors(noun))
        subject = f"every {word}" if rng.random() < 0.5 else lex.with_article(word)
        return f"{subject} is {lex.with_article(kind)}"
    if topic == "synonym":
        ends = [words for pair in lex.ADJECTIVES.values() for words in pair]
        groups = [*ends, *lex.NOUN_SYNONYMS.values(), *lex.PLACE_SYNONYMS.values()]
        first, second = rng.sample(rng.choice([group for group in groups if len(group) > 1]), 2)
        return f"{first} means {second}"
    if topic == "opposite":
        ends = list(rng.choice(tuple(lex.ADJECTIVES.values())))
        rng.shuffle(ends)
        return f"{rng.choice(ends[0])} is the opposite of {rng.choice(ends[1])}"
    if topic == "verb":
        verb = rng.choice([v for v in lex.VERBS.values() if v.kind_of or v.opposite])
        base = rng.choice(verb.words)[0]
        if verb.kind_of and (not verb.opposite or rng.random() < 0.5):
            return f"to {base} is to {rng.choice(lex.VERBS[verb.kind_of].words)[0]}"
        opposite = rng.choice(lex.VERBS[verb.opposite].words)[0]
        return f"to {base} is the opposite of to {opposite}"
    if topic == "place":
        place = rng.choice(tuple(lex.PLACE_PARENT))
        return f"the {place} is {rng.choice(lex.PLACE_SYNONYMS[lex.PLACE_PARENT[place]])}"
    quantity = rng.choice([q for q, general in lex.MORE_GENERAL_QUANTITY.items() if general])
    return f"{quantity} is {rng.choice(lex.MORE_GENERAL_QUANTITY[quantity])}"


def passage(rng: Random) -> tuple[str, str | None]:
    """One or two segments of text, as they stand in a pretraining row."""
    form = rng.choices(("definition", "facts", "again", "question", "review"), (2, 2, 5, 2, 2))[0]
    if form == "definition":
        return definition(rng), definition(rng)
    fact = draw_fact(rng)
    if form == "facts":
        return say(fact, rng), None
    if form == "again":
        told = apply_some(fact, WEAKEN, rng.choice((0, 1, 1, 2)), rng)
        told = apply_some(told, DISTURB, rng.choice((0, 0, 1)), rng)
        connective = rng.choice(CONNECTIVES[infer(fact, told)])
        return say(fact, rng), f"{connective} {say(told, rng)}"
    if form == "question":
        asked = draw_fact(rng, 0.0)
        if rng.random() < 0.4:
            return ask(asked, rng), f"yes {say(asked, rng)}"
        return question_about(asked, rng), say(asked, rng)
    polarity = rng.randrange(2)
    told = review(polarity, rng, BALANCED)
    return told, review(polarity, rng, BALANCED) if rng.random() < 0.7 else None
