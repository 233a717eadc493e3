"""Facts of the micro-world: what they mean, how they are said, what follows from them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from random import Random

from fedquad.tasks.microworld import lexicon as lex


@dataclass(frozen=True)
class Participant:
    """Who or what takes part, e.g. three old robins."""

    noun: str
    quantity: str = "one"
    adjective: tuple[str, int] | None = None  # (dimension, which end of it)


@dataclass(frozen=True)
class Fact:
    """One event, or, when ``negated``, the statement that there was none like it."""

    subject: Participant
    verb: str
    object: Participant | None
    place: str | None
    negated: bool = False


class Relation(enum.Enum):
    """How a part of one fact relates to the same part of another."""

    EQUAL = "the same"
    FORWARD = "the first is more specific"
    REVERSE = "the second is more specific"
    EXCLUDES = "both cannot hold"
    UNRELATED = "neither follows, neither is excluded"


def _by_generality(first: str, second: str, above, otherwise: Relation) -> Relation:
    if first == second:
        return Relation.EQUAL
    if second in above(first):
        return Relation.FORWARD
    if first in above(second):
        return Relation.REVERSE
    return otherwise


def _optional(first: object, second: object) -> Relation | None:
    """Saying less is more general; None when both parts are there to compare."""
    if first is None and second is None:
        return Relation.EQUAL
    if second is None:
        return Relation.FORWARD
    if first is None:
        return Relation.REVERSE
    return None


def _compare_adjective(first, second) -> Relation:
    if (decided := _optional(first, second)) is not None:
        return decided
    if first[0] != second[0]:
        return Relation.UNRELATED
    return Relation.EQUAL if first[1] == second[1] else Relation.EXCLUDES


def _compare_place(first: str | None, second: str | None) -> Relation:
    if (decided := _optional(first, second)) is not None:
        return decided

    def above(place: str) -> tuple[str, ...]:
        return (lex.PLACE_PARENT[place],) if place in lex.PLACE_PARENT else ()

    return _by_generality(first, second, above, Relation.EXCLUDES)


def _compare_verb(first: str, second: str) -> Relation:
    general = (first, *lex.verb_ancestors(first))
    if any(lex.VERBS[verb].opposite in (second, *lex.verb_ancestors(second)) for verb in general):
        return Relation.EXCLUDES
    return _by_generality(first, second, lex.verb_ancestors, Relation.UNRELATED)


def compare(first: Fact, second: Fact) -> list[Relation]:
    """Relations part by part, whether either fact is negated or not."""
    relations = [
        _compare_verb(first.verb, second.verb),
        _compare_place(first.place, second.place),
    ]
    for a, b in ((first.subject, second.subject), (first.object, second.object)):
        if (missing := _optional(a, b)) is not None:
            relations.append(missing)
            continue
        relations += [
            _by_generality(a.noun, b.noun, lex.ancestors, Relation.UNRELATED),
            _by_generality(
                a.quantity, b.quantity, lex.MORE_GENERAL_QUANTITY.get, Relation.EXCLUDES
            ),
            _compare_adjective(a.adjective, b.adjective),
        ]
    return relations


def _follows(relations: list[Relation]) -> bool:
    return all(relation in (Relation.EQUAL, Relation.FORWARD) for relation in relations)


def _excluded(relations: list[Relation]) -> bool:
    return Relation.EXCLUDES in relations and Relation.UNRELATED not in relations


def infer(premise: Fact, hypothesis: Fact) -> str:
    """Label of a pair: ``entailment``, ``neutral`` or ``contradiction``.

    Both sentences are about one event (the convention of MNLI), so a part that
    excludes its counterpart contradicts; a negated fact denies every event
    that is more specific than it.
    """
    forward = compare(premise, hypothesis)
    if not premise.negated and not hypothesis.negated:
        if _follows(forward):
            return "entailment"
        return "contradiction" if _excluded(forward) else "neutral"
    if not premise.negated:
        if _follows(forward):
            return "contradiction"
        return "entailment" if _excluded(forward) else "neutral"
    if _follows(compare(hypothesis, premise)):
        return "entailment" if hypothesis.negated else "contradiction"
    return "neutral"


def same_meaning(first: Fact, second: Fact) -> bool:
    """Whether two facts differ in wording at most."""
    return first.negated == second.negated and all(
        relation is Relation.EQUAL for relation in compare(first, second)
    )


def _say_noun(participant: Participant, rng: Random) -> str:
    word = rng.choice(lex.NOUN_SYNONYMS.get(participant.noun, (participant.noun,)))
    return word if participant.quantity == "one" else lex.plural(word)


def say_participant(participant: Participant, rng: Random, quantity: str | None = None) -> str:
    """Surface form; ``quantity`` replaces the words for how many."""
    words = []
    if participant.adjective is not None:
        dimension, end = participant.adjective
        words.append(rng.choice(lex.ADJECTIVES[dimension][end]))
    phrase = " ".join([*words, _say_noun(participant, rng)])
    if quantity is None and participant.quantity == "one":
        return lex.with_article(phrase)
    return f"{participant.quantity if quantity is None else quantity} {phrase}".strip()


def say_place(place: str, rng: Random) -> str:
    if place in lex.PLACES:
        return rng.choice(lex.PLACE_SYNONYMS[place])
    return f"in the {place}"


def say(fact: Fact, rng: Random) -> str:
    """A sentence for ``fact``: synonyms, voice and word order are drawn from ``rng``."""
    base, past, participle = rng.choice(lex.VERBS[fact.verb].words)
    subject = say_participant(fact.subject, rng)
    if fact.object is not None and rng.random() < 0.3:
        auxiliary = "was" if fact.object.quantity == "one" else "were"
        negation = " not" if fact.negated else ""
        thing = say_participant(fact.object, rng)
        sentence = f"{thing} {auxiliary}{negation} {participle} by {subject}"
    else:
        verb = f"did not {base}" if fact.negated else past
        thing = "" if fact.object is None else " " + say_participant(fact.object, rng)
        sentence = f"{subject} {verb}{thing}"
    if fact.place is None:
        return sentence
    place = say_place(fact.place, rng)
    return f"{place} {sentence}" if rng.random() < 0.25 else f"{sentence} {place}"


def draw_participant(root: str, rng: Random) -> Participant:
    noun = rng.choice(lex.speakable(root))
    adjective = None
    if rng.random() < 0.45:
        adjective = (rng.choice(lex.DIMENSIONS[root]), rng.randrange(2))
    weights = (("one", 5), ("two", 1), ("three", 1), ("four", 1), ("several", 1), ("some", 1))
    quantity = rng.choices([q for q, _ in weights], [w for _, w in weights])[0]
    return Participant(noun, quantity, adjective)


def draw_fact(rng: Random, negated_share: float = 0.15) -> Fact:
    """A fact that makes sense: who acts can act, and on something the verb takes."""
    verb = rng.choice(tuple(lex.VERBS.values()))
    subject = draw_participant(rng.choice(("animal", "person", "person")), rng)
    if verb.objects in ("food", "artifact") and verb.name not in ("eat", "devour", "nibble"):
        subject = draw_participant("person", rng)
    thing = None if verb.objects is None else draw_participant(verb.objects, rng)
    place = None
    if rng.random() < 0.5:
        place = rng.choice((*lex.PLACE_PARENT, *lex.PLACES))
    return Fact(subject, verb.name, thing, place, rng.random() < negated_share)


def with_subject(fact: Fact, **changes) -> Fact:
    return replace(fact, subject=replace(fact.subject, **changes))


def with_object(fact: Fact, **changes) -> Fact:
    return replace(fact, object=replace(fact.object, **changes))
