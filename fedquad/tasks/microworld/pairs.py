"""The three tasks on pairs: entailment, paraphrase and question answering."""

from __future__ import annotations

from random import Random

from fedquad.tasks.microworld import lexicon as lex
from fedquad.tasks.microworld.edits import DISTURB, WEAKEN, apply_some
from fedquad.tasks.microworld.facts import (
    Fact,
    draw_fact,
    infer,
    same_meaning,
    say,
    say_participant,
    say_place,
)

ENTAILMENT_LABELS = ("entailment", "neutral", "contradiction")


def entailment_pair(label: int, rng: Random) -> tuple[str, str]:
    """Premise and hypothesis whose inferred label is ``ENTAILMENT_LABELS[label]``."""
    wanted = ENTAILMENT_LABELS[label]
    while True:
        premise = draw_fact(rng)
        hypothesis = apply_some(premise, WEAKEN, rng.choice((0, 1, 1, 2, 2)), rng)
        hypothesis = apply_some(hypothesis, DISTURB, rng.choice((0, 1, 1, 1, 2)), rng)
        if hypothesis != premise and infer(premise, hypothesis) == wanted:
            return say(premise, rng), say(hypothesis, rng)


def ask(fact: Fact, rng: Random) -> str:
    """``fact`` as a yes-no question."""
    base, _, participle = rng.choice(lex.VERBS[fact.verb].words)
    subject = say_participant(fact.subject, rng)
    place = "" if fact.place is None else " " + say_place(fact.place, rng)
    if fact.object is not None and rng.random() < 0.35:
        auxiliary = "was" if fact.object.quantity == "one" else "were"
        thing = say_participant(fact.object, rng)
        return f"{auxiliary} {thing} {participle} by {subject}{place} ?"
    thing = "" if fact.object is None else " " + say_participant(fact.object, rng)
    return f"did {subject} {base}{thing}{place} ?"


def paraphrase_pair(label: int, rng: Random) -> tuple[str, str]:
    """Two questions; label 1 where they ask the same in other words."""
    while True:
        fact = draw_fact(rng, negated_share=0.0)
        if label == 1:
            first, second = ask(fact, rng), ask(fact, rng)
        else:
            other = apply_some(fact, WEAKEN + DISTURB, rng.choice((1, 2, 2, 3)), rng)
            if other.negated or same_meaning(fact, other):
                continue
            first, second = ask(fact, rng), ask(other, rng)
        if first != second:
            return first, second


def question_about(fact: Fact, rng: Random) -> str:
    """A question that ``fact`` answers: who, what, where or how many."""
    base, past, participle = rng.choice(lex.VERBS[fact.verb].words)
    kinds = ["who"]
    if fact.place is not None:
        kinds += ["where", "where"]
    if fact.object is not None:
        kinds += ["what", "passive"]
        kinds += ["how many"] if fact.object.quantity != "one" else []
    kind = rng.choice(kinds)
    subject = say_participant(fact.subject, rng)
    thing = "" if fact.object is None else " " + say_participant(fact.object, rng)
    if kind == "who":
        return f"who {past}{thing} ?"
    if kind == "where":
        return f"where did {subject} {base}{thing} ?"
    if kind == "what":
        return f"what did {subject} {base} ?"
    if kind == "passive":
        auxiliary = "was" if fact.object.quantity == "one" else "were"
        return f"by whom {auxiliary}{thing} {participle} ?"
    asked = say_participant(fact.object, rng, quantity="")
    return f"how many {asked} did {subject} {base} ?"


def _general_enough(fact: Fact, rng: Random) -> Fact:
    """What a question presupposes is often said more loosely than in the text."""
    return apply_some(fact, WEAKEN, rng.choice((0, 0, 1)), rng)


def answer_pair(label: int, rng: Random) -> tuple[str, str]:
    """Question and passage of one or two facts; label 0 where the passage answers it.

    A passage that does not answer still shares words with the question: it
    tells of a disturbed event, or leaves out what was asked for.
    """
    while True:
        fact, other = draw_fact(rng, 0.0), draw_fact(rng, 0.3)
        asked = _general_enough(fact, rng)
        if asked.place is None and fact.place is not None:
            asked = fact
        question = question_about(asked, rng)
        told = fact
        if label == 1:
            if question.startswith("where") and rng.random() < 0.5:
                told = Fact(fact.subject, fact.verb, fact.object, None)
            else:
                told = apply_some(fact, DISTURB, rng.choice((1, 2, 2)), rng)
                part_asked_for = _differs_only_in_answer(question, asked, told)
                if part_asked_for or infer(told, asked) == "entailment":
                    continue
        facts = [told, other] if rng.random() < 0.6 else [told]
        rng.shuffle(facts)
        passage = f" {rng.choice(('and', 'while', 'before'))} ".join(say(f, rng) for f in facts)
        return question, passage


def _differs_only_in_answer(question: str, asked: Fact, told: Fact) -> bool:
    """Whether ``told`` differs from ``asked`` in just the part the question leaves open."""
    if told.negated:
        return False
    if question.startswith(("who ", "by whom ")):
        blank = Fact(asked.subject, told.verb, told.object, told.place)
    elif question.startswith("where"):
        blank = Fact(told.subject, told.verb, told.object, asked.place)
    elif question.startswith("what "):
        blank = Fact(told.subject, told.verb, asked.object, told.place)
    else:
        if asked.object is None or told.object is None:
            return False
        blank = Fact(
            told.subject,
            told.verb,
            type(told.object)(told.object.noun, asked.object.quantity, told.object.adjective),
            told.place,
        )
    return infer(blank, asked) == "entailment"
