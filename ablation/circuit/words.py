"""Words from which prompts are made and corrupted, sorted by kind.

Written for this program. How a tokenizer splits them differs from model to model: whoever uses
them looks first which of them are one token (`ablation.circuit.tasks.vocabulary`).
"""

from collections.abc import Mapping


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a list that is written as text."""
    return tuple(text.split())


def lines_of(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the words of each line."""
    return tuple(words_of(line) for line in text.strip().splitlines())


WOMEN = words_of(
    """
    Mary Anna Emma Alice Laura Sarah Julia Susan Linda Rachel Helen Lisa Kate Jane Jennifer Maria
    Jessica Emily Elizabeth Karen Nancy Rebecca Michelle Amanda Amy Andrea Angela Barbara Carol
    Caroline Catherine Charlotte Christine Claire Diana Ellen Grace Hannah Heather Jill Joan Judy
    Katherine Kelly Lauren Lucy Margaret Martha Melissa Molly Monica Nicole Olivia Patricia Rose
    Ruth Sally Samantha Sara Sophie Stephanie Victoria Vanessa Zoe
    """
)

MEN = words_of(
    """
    John Tom Paul Peter James David Robert Michael Mark Daniel Thomas George Simon Andrew William
    Richard Steven Adam Alan Alex Anthony Arthur Ben Brian Charles Chris Christian Colin Craig Dan
    Dennis Edward Eric Frank Fred Gary Graham Greg Harry Henry Ian Jack Jacob Jason Jeff Jeremy
    Jim Joe Jonathan Joseph Josh Justin Keith Kenneth Kevin Kyle Larry Lewis Luke Martin Matthew
    Max Mike Nathan Neil Nicholas Oliver Oscar Patrick Philip Ray Roger Roy Ryan Sam Samuel Scott
    Sean Stephen Steve Stuart Tim Tony Victor Walter
    """
)

CAPITALS: Mapping[str, str] = {
    "France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid", "Japan": "Tokyo",
    "Russia": "Moscow", "China": "Beijing", "Egypt": "Cairo", "Greece": "Athens",
    "England": "London", "Ireland": "Dublin", "Austria": "Vienna", "Sweden": "Stockholm",
    "Norway": "Oslo", "Denmark": "Copenhagen", "Finland": "Helsinki", "Portugal": "Lisbon",
    "Poland": "Warsaw", "Hungary": "Budapest", "Belgium": "Brussels", "Cuba": "Havana",
    "Peru": "Lima", "Kenya": "Nairobi", "Iraq": "Baghdad", "Iran": "Tehran", "Syria": "Damascus",
    "Canada": "Ottawa", "Thailand": "Bangkok", "Lebanon": "Beirut",
    "Scotland": "Edinburgh", "Wales": "Cardiff", "Romania": "Bucharest", "Serbia": "Belgrade",
    "Indonesia": "Jakarta", "Taiwan": "Taipei", "Afghanistan": "Kabul", "Turkey": "Ankara",
}  # fmt: skip
"""Country -> its capital."""

COUNTRY_OF: Mapping[str, str] = {
    "Milan": "Italy", "Venice": "Italy", "Naples": "Italy", "Florence": "Italy", "Turin": "Italy",
    "Munich": "Germany", "Hamburg": "Germany", "Cologne": "Germany", "Frankfurt": "Germany",
    "Lyon": "France", "Marseille": "France", "Barcelona": "Spain", "Seville": "Spain",
    "Valencia": "Spain", "Manchester": "England", "Liverpool": "England", "Birmingham": "England",
    "Glasgow": "Scotland", "Toronto": "Canada", "Montreal": "Canada", "Vancouver": "Canada",
    "Sydney": "Australia", "Melbourne": "Australia", "Brisbane": "Australia", "Perth": "Australia",
    "Osaka": "Japan", "Kyoto": "Japan", "Shanghai": "China", "Mumbai": "India", "Delhi": "India",
    "Istanbul": "Turkey", "Geneva": "Switzerland", "Zurich": "Switzerland", "Porto": "Portugal",
    "Karachi": "Pakistan", "Lahore": "Pakistan", "Alexandria": "Egypt", "Lagos": "Nigeria",
}  # fmt: skip
"""City, no capital -> the country that it lies in."""

LANGUAGE_OF: Mapping[str, str] = {
    "France": "French", "Italy": "Italian", "Germany": "German", "Spain": "Spanish",
    "Japan": "Japanese", "Russia": "Russian", "China": "Chinese", "Greece": "Greek",
    "England": "English", "Sweden": "Swedish", "Norway": "Norwegian", "Denmark": "Danish",
    "Finland": "Finnish", "Portugal": "Portuguese", "Poland": "Polish", "Hungary": "Hungarian",
    "Egypt": "Arabic", "Turkey": "Turkish", "Mexico": "Spanish", "Brazil": "Portuguese",
    "Austria": "German", "Argentina": "Spanish", "Korea": "Korean", "Iraq": "Arabic",
    "Iran": "Persian", "Thailand": "Thai", "Vietnam": "Vietnamese", "Ukraine": "Ukrainian",
}  # fmt: skip
"""Country -> the language that most people there speak."""

NOUNS: Mapping[str, str] = {
    "key": "keys", "door": "doors", "book": "books", "car": "cars", "dog": "dogs", "cat": "cats",
    "boy": "boys", "girl": "girls", "teacher": "teachers", "student": "students",
    "doctor": "doctors", "picture": "pictures", "letter": "letters", "table": "tables",
    "chair": "chairs", "window": "windows", "house": "houses", "tree": "trees", "flower": "flowers",
    "bird": "birds", "horse": "horses", "boat": "boats", "ship": "ships", "train": "trains",
    "road": "roads", "river": "rivers", "song": "songs", "story": "stories", "child": "children",
    "man": "men", "woman": "women", "king": "kings", "farmer": "farmers", "soldier": "soldiers",
    "writer": "writers", "singer": "singers", "player": "players", "guest": "guests",
    "parent": "parents", "friend": "friends", "lawyer": "lawyers", "officer": "officers",
    "worker": "workers", "computer": "computers", "machine": "machines", "phone": "phones",
    "plan": "plans", "report": "reports", "idea": "ideas", "gift": "gifts", "cabinet": "cabinets",
    "box": "boxes", "bridge": "bridges", "building": "buildings", "painting": "paintings",
    "cake": "cakes", "apple": "apples", "egg": "eggs", "shoe": "shoes", "hat": "hats",
}  # fmt: skip
"""Singular -> plural."""

PEOPLE = words_of(
    """
    boy girl teacher student doctor child man woman king farmer soldier writer singer player guest
    parent friend lawyer officer worker
    """
)
"""Those of `NOUNS` that can see and know."""

ADJECTIVES = words_of("old new big small young good bad long short heavy dark strange")

THINGS = words_of(
    """
    apple arrow ball bank basket beach bell bird blanket boat bone book bottle bowl box branch
    bread bridge brush bucket butter button camera candle card carpet castle chain chair cheese
    chicken circle clock cloud coat coffee coin copper corn cotton cow crown cup desert desk
    diamond doctor dog door dragon dream dress drum duck eagle egg engine farm feather fence
    finger fire fish flag floor flower forest fruit garden gate glass glove gold grass hammer hat
    hill honey horse hotel island jacket key king kitchen knife lake lamp leaf letter light lion
    magic market metal milk mirror money monkey moon mountain mouse museum needle ocean oil orange
    paint palace paper pencil pepper piano pilot planet plate pocket potato queen rabbit radio
    rain ring river road rock roof rope rose salt sand school sheep shell ship shirt silver snake
    snow soap soldier song spoon star stone storm sugar sword table temple thread tiger tool tower
    train tree trumpet tunnel valley violin wagon wall water whale wheel window winter wolf wood
    """
)
"""Nouns that have nothing to do with each other."""

MONTHS = words_of(
    """
    January February March April May June July August September October November December
    """
)

_TELLING_SETS = """
    Einstein Newton Darwin Shakespeare Mozart Beethoven Bach Picasso Napoleon Lincoln Washington
    Google Apple Microsoft Amazon Facebook Intel Sony Samsung Toyota Honda Ford Nokia
    Tower Bridge Palace Castle Museum Temple Cathedral Theatre
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday
    Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune
    one two three four five six seven eight nine ten eleven twelve
    twenty thirty forty fifty sixty seventy eighty ninety
    first second third fourth fifth sixth seventh eighth ninth tenth
"""

_OTHER_SETS = """
    plus minus
    red blue green yellow black white brown purple orange pink grey
    north south east west
    spring summer autumn winter
    gold silver iron copper
    dog cat horse cow sheep pig goat lion tiger wolf rabbit
    father mother brother sister son daughter uncle aunt
    husband wife
    boy girl
    man woman
    king queen
    he she
    his her
    big small
    large tiny
    hot cold
    old new
    good bad
    happy sad
    high low
    long short
    fast slow
    up down
    left right
    before after
    above below
    always never
    day night
    morning evening
    more less
    doctor nurse teacher lawyer farmer soldier writer singer
    football tennis golf baseball hockey
    piano guitar violin trumpet
    bread butter cheese milk sugar salt coffee tea water wine beer
    park school store station office hospital restaurant library museum
    drink book ball gift letter ring
    gave sent showed handed
    went came
    b c d e f g h j k l m n o p q r s t u v w x y z
    B C D E F G H J K L M N P R S T U V W X Y Z
"""


TELLING_KINDS: tuple[tuple[str, ...], ...] = (
    tuple(dict.fromkeys((*CAPITALS, *LANGUAGE_OF, *COUNTRY_OF.values()))),
    (*CAPITALS.values(), *COUNTRY_OF),
    tuple(dict.fromkeys(LANGUAGE_OF.values())),
    MONTHS,
    *lines_of(_TELLING_SETS),
)
"""Words that can stand for each other: what a prompt that holds one is mostly about."""

OTHER_KINDS = lines_of(_OTHER_SETS)
"""Words that can stand for each other, of the rest."""

ENDINGS: Mapping[str, tuple[str, ...]] = {
    "ing": words_of("making taking looking running playing reading writing working"),
    "ed": words_of("wanted looked walked played opened started worked carried"),
    "ly": words_of("quickly slowly quietly suddenly finally easily clearly really"),
}
"""Ending of a word -> words of that form, whatever they mean."""

DETERMINERS = frozenset(words_of("a an the this that these those my your his her its our their"))

FUNCTION_WORDS = frozenset(
    words_of(
        """
        a an the this that these those my your his her its our their some any no each every all both
        i you he she it we they me him us them who whom whose which what when where why how
        and or but nor so yet if then than as because while although though since until unless
        of to in on at by for with from into onto over under near behind beside about after before
        between through during without within against among around across up down out off
        is are was were be been being am has have had do does did will would can could shall should
        may might must not just only also too very more most there here
        """
    )
)
