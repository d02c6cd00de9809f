"""The texts of the relations: templates with marks, and the words that fill them.

Written for this program. A slot is a kind of word and a number; a mark joins two slots by "-", the
one that comes first in the sentence first. Which relation a mark is of follows from the kinds. What
stands in brackets is there in about half of the sentences, so that words that belong together are
now nearer, now farther apart.

Training and held-out sentences share neither templates nor, pronouns aside, the words that fill
them: a head that prefers one word, whatever it does in the sentence, gains nothing by it.
"""

from collections.abc import Mapping

from ablation.circuit.words import MEN, PEOPLE, WOMEN, words_of

WORDS: Mapping[str, tuple[str, ...]] = {
    "person": PEOPLE,
    "owner": PEOPLE,
    "man": words_of("king father uncle brother actor grandfather nephew gentleman"),
    "woman": words_of("queen mother aunt sister actress grandmother niece lady"),
    "people": words_of(
        """
        farmers soldiers students teachers doctors singers writers players guests workers lawyers
        officers
        """
    ),
    "boyname": MEN[:40],
    "girlname": WOMEN[:40],
    "thing": words_of(
        """
        book letter box chair picture hat lamp key cup coat bottle basket knife ring bowl ball
        hammer mirror candle map clock drum bell blanket bag brush camera flag
        """
    ),
    "place": words_of(
        """
        valley house market river station church bridge school lake forest palace island tower
        castle farm hotel museum office theatre library
        """
    ),
    "adj": words_of(
        """
        old new big small dark strange good bad quiet famous broken empty green heavy cheap rich
        poor clean dirty beautiful
        """
    ),
    "verb": words_of(
        """
        found lost sold bought carried dropped broke painted moved opened kept borrowed stole
        cleaned wanted liked needed watched took brought
        """
    ),
    "said": words_of("said thought knew believed heard felt claimed hoped"),
    "prep": words_of("near behind beside outside inside beyond above around under against"),
    "det": words_of("the that this every each some another one"),
    "dets": words_of("the some these those"),
    "he": ("he",),
    "she": ("she",),
    "they": ("they",),
    "it": ("it",),
    "him": ("him",),
    "his": ("his",),
    "her": ("her",),
    "their": ("their",),
}
"""Kind -> words. Of kinds with several, the first, third... fill training templates, the others
held-out ones."""

MODIFIERS: Mapping[str, str] = {
    "det": "determiner-noun",
    "dets": "determiner-noun",
    "adj": "adjective-noun",
    "prep": "preposition-object",
}
"""Kind of the earlier word -> the relation to the noun behind it."""
VERBS = frozenset({"verb", "said"})
POSSESSIVES = frozenset({"his", "her", "their"})
PRONOUNS = frozenset({"he", "she", "they", "it", "him"}) | POSSESSIVES

OPENINGS = (
    ("I think that ", "Everybody here knows that ", "In those days, "),
    ("Perhaps ", "They told us that ", "It is said in town that "),
)
"""In front of training and of held-out sentences, so that no marked word is the first token and
none always stands at the same position."""

TRAINING = (
    (
        "{det1} {adj1} {person1}[ {prep1} {det2} {place1}] {verb1} {det3}[ very useful] {thing1}.",
        "det1-person1 adj1-person1 person1-verb1 prep1-place1 det2-place1 verb1-thing1 det3-thing1",
    ),
    (
        "[early ]yesterday {det1} {person1}[ quickly] {verb1} {det2} very {adj1}[ glass][ "
        "kitchen] {thing1}.",
        "det1-person1 person1-verb1 verb1-thing1 det2-thing1 adj1-thing1",
    ),
    (
        "{det1}[ tall] {person1} who lived {prep1} {det2} {adj1}[ village] {place1} {verb1} "
        "{det3} {owner1}'s[ wooden] {thing1}.",
        "det1-person1 person1-verb1 prep1-place1 det2-place1 adj1-place1 det3-owner1 "
        "owner1-thing1 verb1-thing1",
    ),
    (
        "{boyname1}[ from the south] {said1} that {he1}[ himself] {verb1} {det1}[ useful] "
        "{thing1}.",
        "boyname1-said1 boyname1-he1 verb1-thing1 det1-thing1",
    ),
    (
        "{det1} {woman1}[ in red] told {det2} {man1}[ {prep1} {det3} {place1}] that {she1}[ "
        "often] {verb1} {det4} {thing1}.",
        "det1-woman1 det2-man1 prep1-place1 det3-place1 woman1-she1 verb1-thing1 det4-thing1",
    ),
    (
        "after {boyname1} met {girlname1} {prep1} {det1} {place1}, {she1}[ gladly] {verb1} "
        "{his1}[ {adj1}] {thing1}.",
        "prep1-place1 det1-place1 girlname1-she1 boyname1-his1 his1-thing1 adj1-thing1 "
        "verb1-thing1",
    ),
    (
        "{dets1} {people1}[ {prep1} {det2} {place1}][ slowly] {verb1} {their1}[ useful] {thing1}.",
        "dets1-people1 people1-verb1 prep1-place1 det2-place1 people1-their1 their1-thing1 "
        "verb1-thing1",
    ),
    (
        "nobody knew why {det1} {owner1}'s[ {adj1}][ wooden] {thing1} stood {prep1} {det2}[ "
        "stone] {place1}.",
        "det1-owner1 owner1-thing1 adj1-thing1 prep1-place1 det2-place1",
    ),
    (
        "with {det1} {adj1}[ kitchen] {thing1} in hand, {det2}[ young] {person1}[ quietly] "
        "{verb1} {det3} {thing2}.",
        "det1-thing1 adj1-thing1 det2-person1 person1-verb1 verb1-thing2 det3-thing2",
    ),
    (
        "it was {prep1} {det1} {adj1}[ stone] {place1} that {girlname1}[ once] {verb1} {det2} "
        "{owner1}'s[ plain] {thing1}.",
        "prep1-place1 det1-place1 adj1-place1 girlname1-verb1 det2-owner1 owner1-thing1 "
        "verb1-thing1",
    ),
    (
        "when {det1} {adj1} {man1}[ at last] came back, {det2} {woman1}[ next door] gave "
        "{him1} {her1}[ lovely] {thing1}.",
        "det1-man1 adj1-man1 man1-him1 det2-woman1 woman1-her1 her1-thing1",
    ),
    (
        "{det1}[ wooden] {thing1} {prep1} {det2} {adj1}[ village] {place1} fell, and "
        "{boyname1}[ quickly] {verb1} {it1}.",
        "det1-thing1 prep1-place1 det2-place1 adj1-place1 thing1-it1 boyname1-verb1",
    ),
)
"""(text, its marks)."""

HELD_OUT = (
    (
        "{boyname1} never forgot how {det1} {adj1} {person1}[ next door] {verb1} {det2}[ "
        "pretty] {thing1} {prep1} {det3}[ narrow] {place1}.",
        "det1-person1 adj1-person1 person1-verb1 verb1-thing1 det2-thing1 prep1-place1 det3-place1",
    ),
    (
        "{det1} {person1}[, as everybody knew,] {verb1} {det2} {adj1}[ silver][ garden] {thing1}.",
        "det1-person1 person1-verb1 verb1-thing1 det2-thing1 adj1-thing1",
    ),
    (
        "{girlname1}[, who came from {det1} {adj1} {place1},] {verb1} {det2} {owner1}'s[ "
        "wooden] {thing1}.",
        "det1-place1 adj1-place1 girlname1-verb1 det2-owner1 owner1-thing1 verb1-thing1",
    ),
    (
        "{det1} {woman1} {prep1} {det2}[ village] {place1} {said1}[ that] {she1}[ often] "
        "{verb1} {det3} {thing1}.",
        "det1-woman1 prep1-place1 det2-place1 woman1-said1 woman1-she1 verb1-thing1 det3-thing1",
    ),
    (
        "{dets1} {people1} {said1} that {boyname1}[ recently] {verb1} {their1}[ {adj1}][ "
        "winter] {thing1}.",
        "dets1-people1 people1-said1 people1-their1 their1-thing1 boyname1-verb1 adj1-thing1 "
        "verb1-thing1",
    ),
    (
        "because {girlname1} trusted {boyname1}, {he1}[ secretly] {verb1} {her1}[ pretty] "
        "{thing1} {prep1} {det1}[ tall] {place1}.",
        "boyname1-he1 girlname1-her1 her1-thing1 verb1-thing1 prep1-place1 det1-place1",
    ),
    (
        "{det1} {adj1} {owner1}'s[ metal] {thing1} lay {prep1} {det2} very {adj2}[ stone] "
        "{place1} for years.",
        "adj1-owner1 owner1-thing1 prep1-place1 det2-place1 adj2-place1",
    ),
    (
        "at night {dets1}[ young] {people1}[ slowly] {verb1} {det1} {adj1}[ garden] {thing1} "
        "because {they1} needed money.",
        "dets1-people1 people1-verb1 verb1-thing1 det1-thing1 adj1-thing1 people1-they1",
    ),
    (
        "{girlname1} saw {det1}[ pretty] {thing1} {prep1} {det2} {adj1}[ mountain] {place1} "
        "and[ quickly] took {it1}.",
        "det1-thing1 prep1-place1 det2-place1 adj1-place1 thing1-it1",
    ),
    (
        "{girlname1} and {det1}[ tall] {man1} walked {prep1} {det2} {place1} until {he1}[ "
        "suddenly] {verb1} {his1} {adj1}[ winter] {thing1}.",
        "det1-man1 prep1-place1 det2-place1 man1-he1 man1-his1 his1-thing1 adj1-thing1 "
        "verb1-thing1",
    ),
    (
        "long ago {det1} {person1} {prep1} {det2} {place1}[ across the water] {verb1} {det3}[ "
        "very useful] {thing1}.",
        "det1-person1 prep1-place1 det2-place1 person1-verb1 verb1-thing1 det3-thing1",
    ),
    (
        "my neighbour saw {det1} {owner1}'s[ little] {thing1}, and {det2} {person1}[ {prep1} "
        "{det3} {place1}] {verb1} {it1}.",
        "det1-owner1 owner1-thing1 det2-person1 prep1-place1 det3-place1 person1-verb1 thing1-it1",
    ),
)
