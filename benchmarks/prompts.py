"""Prompts of different kinds, 10 to 40 tokens each, cut where a model has to decide."""

PROMPTS: dict[str, str] = {
    "fact, capital": "France is famous for its food and wine. The capital of France is",
    "fact, author": "The tragedy Romeo and Juliet was written by the English playwright William",
    "fact, science": "Every molecule of water is made of two elements: hydrogen and",
    "indirect object": "When Mary and John went to the store, John gave a drink to",
    "indirect object, other order": (
        "After Tom and Anna had lunch together at the office, Anna handed the keys to"
    ),
    "agreement": "The keys to the old wooden cabinet in the kitchen",
    "agreement over a clause": "The author that the critics of the newspaper admire so much",
    "gendered pronoun": "The waitress brought the soup to the table, and then",
    "coreference": (
        "The trophy doesn't fit in the brown suitcase because it is too big. What is too big is the"
    ),
    "induction": "Zorbak met Lindqvist. Lindqvist smiled. Then Zorbak met",
    "repeated list": "red blue green yellow red blue green yellow red blue green",
    "counting": "one, two, three, four, five, six, seven,",
    "days of the week": "Monday, Tuesday, Wednesday, Thursday, Friday,",
    "arithmetic": "Two plus two is four. Three plus three is six. Four plus four is",
    "greater than": "The war lasted from the year 1732 to the year 17",
    "code, brackets": "def add(a, b):\n    return a + b\n\nprint(add(1, 2",
    "code, names": "for item in items:\n    total = total + item.price\nprint(",
    "dialogue": '"Where are you going?" she asked.\n"I am going to the market to buy some',
    "French": "Il fait froid en hiver et il fait chaud en",
    "opposites": "The opposite of hot is cold, the opposite of big is small, the opposite of up is",
}
"""Kind -> prompt."""
