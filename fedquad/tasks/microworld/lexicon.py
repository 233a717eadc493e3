"""The words of the micro-world and how their meanings relate.

A *concept* is written as the first of its words; further words are synonyms.
Trees say what is a kind of what, opposites what cannot hold together. Nothing
here is sampled: the same tables serve the tasks, the corpus and the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

# Kind → its direct kinds. A sentence uses any concept below a root, not the root's own name
# unless it stands in NAMED_ROOTS.
NOUN_TREE: dict[str, tuple[str, ...]] = {
    "animal": ("dog", "cat", "bird", "horse", "rabbit", "mouse"),
    "dog": ("poodle", "beagle", "hound"),
    "bird": ("sparrow", "robin", "eagle", "owl", "crow"),
    "horse": ("pony", "stallion"),
    "person": ("worker", "child", "adult"),
    "worker": ("teacher", "doctor", "farmer", "baker", "pilot", "painter", "nurse"),
    "child": ("boy", "girl"),
    "adult": ("man", "woman"),
    "food": ("fruit", "vegetable", "dessert"),
    "fruit": ("apple", "pear", "plum", "peach"),
    "vegetable": ("carrot", "onion", "bean", "potato"),
    "dessert": ("cake", "pie", "cookie"),
    "artifact": ("vehicle", "tool", "container", "instrument"),
    "vehicle": ("car", "boat", "truck", "bicycle"),
    "car": ("sedan", "taxi"),
    "boat": ("canoe", "ferry"),
    "tool": ("hammer", "shovel", "rake", "ladder"),
    "container": ("box", "basket", "bottle"),
    "instrument": ("violin", "drum", "flute", "piano"),
}
NOUN_SYNONYMS = {
    "child": ("child", "kid"),
    "rabbit": ("rabbit", "bunny"),
    "doctor": ("doctor", "physician"),
    "car": ("car", "automobile"),
    "bicycle": ("bicycle", "bike"),
}
IRREGULAR_PLURALS = {
    "mouse": "mice",
    "child": "children",
    "man": "men",
    "woman": "women",
    "potato": "potatoes",
    "box": "boxes",
    "peach": "peaches",
    "person": "people",
}

# Dimension → its two ends; each end is a tuple of synonyms.
ADJECTIVES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "size": (("big", "large"), ("small", "little")),
    "age": (("old", "aged"), ("young", "new")),
    "speed": (("fast", "quick"), ("slow",)),
    "looks": (("pretty", "beautiful"), ("ugly",)),
    "weight": (("heavy",), ("light",)),
    "state": (("clean", "tidy"), ("dirty",)),
    "mood": (("happy", "glad"), ("sad", "unhappy")),
    "energy": (("tired", "sleepy"), ("lively",)),
    "taste": (("sweet", "sugary"), ("sour", "bitter")),
    "heat": (("hot", "warm"), ("cold",)),
}
# Which dimensions describe what stands below a root of the noun tree.
DIMENSIONS = {
    "animal": ("size", "age", "speed", "looks", "weight", "mood", "energy"),
    "person": ("age", "looks", "mood", "energy", "speed"),
    "food": ("size", "weight", "taste", "heat", "age"),
    "artifact": ("size", "age", "weight", "state", "looks"),
}


@dataclass(frozen=True)
class Verb:
    """One verb: ``words`` are (base, past, participle) of each synonym."""

    words: tuple[tuple[str, str, str], ...]
    objects: str | None  # root of the nouns it takes; None for no object
    kind_of: str | None = None  # base form of a more general verb
    opposite: str | None = None  # base form of the verb that excludes it

    @property
    def name(self) -> str:
        return self.words[0][0]


def _verb(forms: str, objects: str | None, kind_of: str | None = None, opposite=None) -> Verb:
    words = tuple(tuple(word.split("/")) for word in forms.split())
    return Verb(words, objects, kind_of, opposite)


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        _verb("follow/followed/followed", "animal"),
        _verb("chase/chased/chased pursue/pursued/pursued", "animal", "follow"),
        _verb("see/saw/seen", "animal"),
        _verb("watch/watched/watched observe/observed/observed", "animal", "see"),
        _verb("notice/noticed/noticed spot/spotted/spotted", "animal", "see", "ignore"),
        _verb("ignore/ignored/ignored", "animal", None, "notice"),
        _verb("touch/touched/touched", "animal"),
        _verb("hug/hugged/hugged", "animal", "touch"),
        _verb("kick/kicked/kicked", "animal", "touch"),
        _verb("help/helped/helped aid/aided/aided", "person", None, "hurt"),
        _verb("hurt/hurt/hurt harm/harmed/harmed", "person", None, "help"),
        _verb("meet/met/met", "person"),
        _verb("praise/praised/praised", "person", None, "blame"),
        _verb("blame/blamed/blamed", "person", None, "praise"),
        _verb("eat/ate/eaten", "food"),
        _verb("devour/devoured/devoured", "food", "eat"),
        _verb("nibble/nibbled/nibbled", "food", "eat"),
        _verb("make/made/made", "food"),
        _verb("cook/cooked/cooked", "food", "make"),
        _verb("bake/baked/baked", "food", "make"),
        _verb("get/got/gotten obtain/obtained/obtained", "artifact"),
        _verb("buy/bought/bought purchase/purchased/purchased", "artifact", "get", "sell"),
        _verb("sell/sold/sold", "artifact", None, "buy"),
        _verb("find/found/found", "artifact", "get", "lose"),
        _verb("lose/lost/lost", "artifact", None, "find"),
        _verb("repair/repaired/repaired fix/fixed/fixed", "artifact", None, "break"),
        _verb("break/broke/broken", "artifact", None, "repair"),
        _verb("move/moved/moved", "artifact"),
        _verb("carry/carried/carried", "artifact", "move"),
        _verb("drag/dragged/dragged pull/pulled/pulled", "artifact", "move"),
        _verb("travel/travelled/-", None),
        _verb("run/ran/- sprint/sprinted/-", None, "travel"),
        _verb("walk/walked/-", None, "travel"),
        _verb("crawl/crawled/-", None, "travel"),
        _verb("rest/rested/-", None),
        _verb("sleep/slept/- doze/dozed/-", None, "rest"),
        _verb("laugh/laughed/- giggle/giggled/-", None, None, "cry"),
        _verb("cry/cried/- weep/wept/-", None, None, "laugh"),
        _verb("shout/shouted/- yell/yelled/-", None, None, "whisper"),
        _verb("whisper/whispered/-", None, None, "shout"),
    )
}

# Where something happens; the keys are said as adverbs, the values as "in the …".
PLACES: dict[str, tuple[str, ...]] = {
    "outdoors": ("park", "garden", "forest", "field", "street"),
    "indoors": ("kitchen", "hall", "office", "library", "bedroom"),
}
PLACE_SYNONYMS = {"outdoors": ("outdoors", "outside"), "indoors": ("indoors", "inside")}

# Exact numbers, and what each also is: three birds are several birds, and some birds.
NUMBERS = ("one", "two", "three", "four")
MORE_GENERAL_QUANTITY = {"one": ("some",), "two": ("some",), "several": ("some",)} | {
    "three": ("several", "some"),
    "four": ("several", "some"),
    "some": (),
}

PARENT = {kind: parent for parent, kinds in NOUN_TREE.items() for kind in kinds}
PLACE_PARENT = {place: parent for parent, places in PLACES.items() for place in places}
# Roots that no one says in a sentence: too general to be natural as a participant.
UNSPOKEN = ("artifact",)


def ancestors(noun: str) -> tuple[str, ...]:
    """Ever more general kinds of ``noun``, nearest first."""
    found = []
    while noun in PARENT:
        noun = PARENT[noun]
        found.append(noun)
    return tuple(found)


def descendants(noun: str) -> tuple[str, ...]:
    """Everything that is a kind of ``noun``, at any distance."""
    return tuple(kind for kind in PARENT if noun in ancestors(kind))


def root_of(noun: str) -> str:
    return (noun, *ancestors(noun))[-1]


def speakable(root: str) -> tuple[str, ...]:
    """Nouns a sentence may use for a participant of kind ``root``."""
    return tuple(noun for noun in (root, *descendants(root)) if noun not in UNSPOKEN)


def plural(word: str) -> str:
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def with_article(phrase: str) -> str:
    """``a`` or ``an`` before ``phrase``."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def verb_ancestors(verb: str) -> tuple[str, ...]:
    parent = VERBS[verb].kind_of
    return () if parent is None else (parent, *verb_ancestors(parent))
