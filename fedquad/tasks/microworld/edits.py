"""Small changes of a fact, from which pairs of sentences are made.

Every edit returns a changed fact, or None where it does not apply. None of
them knows a label: labels come from `facts.infer` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from fedquad.tasks.microworld import lexicon as lex
from fedquad.tasks.microworld.facts import Fact, Participant, with_object, with_subject

Edit = Callable[[Fact, Random], Fact | None]


def _participant_edit(change: Callable[[Participant, Random], dict | None]) -> Edit:
    """Apply ``change`` to the subject or the object, whichever is drawn."""

    def edit(fact: Fact, rng: Random) -> Fact | None:
        on_object = fact.object is not None and rng.random() < 0.5
        target = fact.object if on_object else fact.subject
        changes = change(target, rng)
        if changes is None:
            return None
        return with_object(fact, **changes) if on_object else with_subject(fact, **changes)

    return edit


def _general_noun(target: Participant, rng: Random) -> dict | None:
    kinds = [noun for noun in lex.ancestors(target.noun) if noun not in lex.UNSPOKEN]
    return {"noun": rng.choice(kinds)} if kinds else None


def _special_noun(target: Participant, rng: Random) -> dict | None:
    kinds = lex.descendants(target.noun)
    return {"noun": rng.choice(kinds)} if kinds else None


def _other_noun(target: Participant, rng: Random) -> dict:
    others = [noun for noun in lex.speakable(lex.root_of(target.noun)) if noun != target.noun]
    return {"noun": rng.choice(others)}


def _drop_adjective(target: Participant, rng: Random) -> dict | None:
    return None if target.adjective is None else {"adjective": None}


def _add_adjective(target: Participant, rng: Random) -> dict | None:
    if target.adjective is not None:
        return None
    dimension = rng.choice(lex.DIMENSIONS[lex.root_of(target.noun)])
    return {"adjective": (dimension, rng.randrange(2))}


def _opposite_adjective(target: Participant, rng: Random) -> dict | None:
    if target.adjective is None:
        return None
    dimension, end = target.adjective
    return {"adjective": (dimension, 1 - end)}


def _general_quantity(target: Participant, rng: Random) -> dict | None:
    kinds = lex.MORE_GENERAL_QUANTITY[target.quantity]
    return {"quantity": rng.choice(kinds)} if kinds else None


def _other_quantity(target: Participant, rng: Random) -> dict:
    others = [quantity for quantity in lex.MORE_GENERAL_QUANTITY if quantity != target.quantity]
    return {"quantity": rng.choice(others)}


def general_verb(fact: Fact, rng: Random) -> Fact | None:
    kinds = lex.verb_ancestors(fact.verb)
    return replace(fact, verb=rng.choice(kinds)) if kinds else None


def special_verb(fact: Fact, rng: Random) -> Fact | None:
    kinds = [name for name in lex.VERBS if fact.verb in lex.verb_ancestors(name)]
    return replace(fact, verb=rng.choice(kinds)) if kinds else None


def opposite_verb(fact: Fact, rng: Random) -> Fact | None:
    opposite = lex.VERBS[fact.verb].opposite
    return None if opposite is None else replace(fact, verb=opposite)


def other_verb(fact: Fact, rng: Random) -> Fact:
    objects = lex.VERBS[fact.verb].objects
    others = [v.name for v in lex.VERBS.values() if v.objects == objects and v.name != fact.verb]
    return replace(fact, verb=rng.choice(others))


def general_place(fact: Fact, rng: Random) -> Fact | None:
    if fact.place not in lex.PLACE_PARENT:
        return None
    return replace(fact, place=lex.PLACE_PARENT[fact.place])


def drop_place(fact: Fact, rng: Random) -> Fact | None:
    return None if fact.place is None else replace(fact, place=None)


def other_place(fact: Fact, rng: Random) -> Fact:
    places = [place for place in (*lex.PLACE_PARENT, *lex.PLACES) if place != fact.place]
    return replace(fact, place=rng.choice(places))


def negate(fact: Fact, rng: Random) -> Fact:
    return replace(fact, negated=not fact.negated)


def swap_roles(fact: Fact, rng: Random) -> Fact | None:
    """Who did it to whom: possible where both can act."""
    if fact.object is None or lex.root_of(fact.object.noun) not in ("animal", "person"):
        return None
    return replace(fact, subject=fact.object, object=fact.subject)


WEAKEN: tuple[Edit, ...] = (
    _participant_edit(_general_noun),
    _participant_edit(_drop_adjective),
    _participant_edit(_general_quantity),
    general_verb,
    general_place,
    drop_place,
)
DISTURB: tuple[Edit, ...] = (
    _participant_edit(_special_noun),
    _participant_edit(_other_noun),
    _participant_edit(_add_adjective),
    _participant_edit(_opposite_adjective),
    _participant_edit(_other_quantity),
    special_verb,
    opposite_verb,
    other_verb,
    other_place,
    negate,
    swap_roles,
)


def apply_some(fact: Fact, edits: tuple[Edit, ...], count: int, rng: Random) -> Fact:
    """``count`` edits drawn from ``edits``, skipping those that do not apply."""
    done = 0
    while done < count:
        changed = rng.choice(edits)(fact, rng)
        if changed is not None:
            fact, done = changed, done + 1
        elif rng.random() < 0.05:  # a fact too plain for all of these edits stays as it is
            break
    return fact
