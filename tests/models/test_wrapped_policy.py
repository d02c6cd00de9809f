"""Policies that a person wrapped, against plain hooks on an eager copy: 2e-5 of actions and of
attention, which float32 rounding stays below."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pi0 import CHUNK, IMAGE_ID, N_NUMBERS, N_STEPS, make_policy, projections, scale_head
from tiny_vision import noise_picture, tiny_vision_directory, zeroed
from tiny_wrapped import Reach, flow, plain_flow, plain_reach, reach
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from ablation import Ablation, Knockout, Mean, Scale, Zero
from ablation.attention_change import attention_change, with_prompt
from ablation.chunk_actions import hide_modalities, sweep_chunk
from ablation.on_picture import on_picture
from ablation.paired_reading import map_change
from models.errors import UserError
from models.language_model import LanguageModel
from models.picture import Picture
from models.policy_adapter import Act, Actions, Number, Observation, Patches, Policy, State, Words
from models.policy_files import wrapped
from models.types import EXPERT, MAIN, VISION, Head, RobotInput, TokenizedPrompt

TOLERANCE = 2e-5
INSTRUCTION = "pick up the red cup"
ROBOT = RobotInput((1.5, -1.25), draw=3)
PICTURES = [noise_picture((32, 32), seed) for seed in range(2)]


def flow_prompt(robot: RobotInput = ROBOT) -> TokenizedPrompt:
    return flow().tokenize(INSTRUCTION, pictures=PICTURES, robot=robot)


def flow_chunk(policy: Any) -> np.ndarray:
    """Return a plain PI0's chunk on `flow_prompt`, flat; what its file prepares, written anew."""
    ids = torch.tensor([[IMAGE_ID] * 32 + [6, 4, 5, 5, 5]])
    pixels = np.stack([one.pixels for one in PICTURES]).transpose(0, 3, 1, 2)[None]
    noise = torch.randn(1, CHUNK, N_NUMBERS, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        chunk = policy.sample_actions(
            noise=noise,
            state=torch.tensor([[1.5, -1.25, 0, 0, 0, 0]]),
            input_ids=ids,
            pixel_values=torch.from_numpy(pixels) / 127.5 - 1,
            attention_mask=torch.ones_like(ids),
            pixel_attention_mask=torch.ones(1, 2, dtype=torch.bool),
        )
    return np.asarray(chunk.flatten().numpy())


def reach_prompt(robot: RobotInput | None = None) -> TokenizedPrompt:
    return reach().tokenize(INSTRUCTION, pictures=PICTURES, robot=robot)


def reach_numbers(policy: Any) -> np.ndarray:
    pixels = [torch.from_numpy(one.pixels).permute(2, 0, 1)[None] / 255 for one in PICTURES]
    with torch.inference_mode():
        return np.asarray(policy(pixels, torch.tensor([[4, 2, 3, 3, 3]]))[0].numpy())


@dataclass(frozen=True)
class Case:
    model: Callable[[], LanguageModel]
    prompt: Callable[[], TokenizedPrompt]
    plain: Callable[[], tuple[Any, dict[str, nn.Module]]]
    answer: Callable[[Any], np.ndarray]


CASES = {
    "flow": Case(flow, flow_prompt, plain_flow, flow_chunk),
    "reach": Case(reach, reach_prompt, plain_reach, reach_numbers),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_stacks_are_found_by_their_modules() -> None:
    found = {s.label: (s.name, s.n_layers, s.n_heads, s.repeats) for s in flow().stacks.stacks}
    assert found == {
        "vision": (VISION, 2, 4, False),
        "language": (MAIN, 3, 4, False),
        "expert": (EXPERT, 3, 4, True),
    }
    assert flow().kind == "policy"
    assert flow().n_vocab == CHUNK * N_NUMBERS
    assert flow().info.self_check.passed
    found = {s.label: (s.causal, s.repeats) for s in reach().stacks.stacks}
    assert found == {"vision": (False, True), "language": (True, False)}  # once a camera


def test_every_head_zeroed_equals_a_plain_hook(case: Case) -> None:
    model, prompt, (policy, parts) = case.model(), case.prompt(), case.plain()
    clean = case.answer(policy)
    np.testing.assert_allclose(model.predict(prompt).log_probs, clean, atol=TOLERANCE)
    heads = model.all_heads(None)
    found = model.ablated_logprobs(prompt, [[head] for head in heads], Zero()).numpy()
    moved = {}
    for row, head in zip(found, heads, strict=True):
        handle = scale_head(projections(parts[head.stack])[head.layer], head.head, 0)
        expected = case.answer(policy)
        handle.remove()
        np.testing.assert_allclose(row, expected, atol=TOLERANCE, err_msg=str(head))
        moved[head] = float(np.abs(expected - clean).max())
    for stack in parts:
        assert max(moved[head] for head in heads if head.stack == stack) > 100 * TOLERANCE


def test_heads_of_all_stacks_are_ablated_together(case: Case) -> None:
    model, prompt, (policy, parts) = case.model(), case.prompt(), case.plain()
    heads = tuple(Head(1, 2, stack) for stack in parts)
    found = model.predict(prompt, ablation=Ablation(heads, Scale(0.25))).log_probs
    for head in heads:
        scale_head(projections(parts[head.stack])[head.layer], head.head, 0.25)
    np.testing.assert_allclose(found, case.answer(policy), atol=TOLERANCE)


def eager_maps(case: Case) -> dict[str, list[np.ndarray]]:
    """Return every map of an eager run: stack -> [head, query, key] for each run of each layer, the
    pictures of a run block by block."""
    policy, parts = case.plain()
    seen: dict[str, list[np.ndarray]] = {stack: [] for stack in parts}

    def keep(stack: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            heads = output[1].transpose(0, 1)  # [head, row, query, key]
            seen[stack].append(np.stack([torch.block_diag(*one).numpy() for one in heads]))

        return hook

    for stack, part in parts.items():
        for module in part.modules():
            if type(module).__name__.endswith("Attention"):
                module.register_forward_hook(keep(stack))
    case.answer(policy)
    return seen


@pytest.mark.parametrize("step", [0, 1, None])
def test_attention_is_that_of_an_eager_run(case: Case, step: int | None) -> None:
    model = case.model()
    robot = RobotInput(ROBOT.state if case is CASES["flow"] else (), 3, step)
    prompt = model.tokenize(INSTRUCTION, pictures=PICTURES, robot=robot)
    for stack, maps in eager_maps(case).items():
        n_layers = model.stacks.named(stack).n_layers
        n_runs = len(maps) // n_layers
        at = min(n_runs - 1, n_runs if step is None else step)
        expected = np.concatenate(maps[at * n_layers : (at + 1) * n_layers])
        found = model.attention(prompt, model.all_heads(stack))
        np.testing.assert_allclose(found.values, expected, atol=TOLERANCE, err_msg=stack)


def test_an_intervention_takes_from_every_run_its_own() -> None:
    """The mean over positions, which differs from step to step, on a head of the expert."""
    model, prompt, (policy, parts) = flow(), flow_prompt(), plain_flow()
    head = Head(1, 2, EXPERT)

    def mean(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].clone()
        own = slice(8 * head.head, 8 * (head.head + 1))
        z[..., own] = z[..., own].mean(dim=1, keepdim=True)
        return (z,)

    projections(parts[EXPERT])[head.layer].register_forward_pre_hook(mean)
    found = model.predict(prompt, ablation=Ablation((head,), Mean())).log_probs
    np.testing.assert_allclose(found, flow_chunk(policy), atol=TOLERANCE)
    with pytest.raises(UserError, match="heads of the expert put out differs from step to step"):
        model.predict(prompt, ablation=Ablation((head,), Mean(("pick the blue cup it",))))


def test_positions_are_what_the_person_says() -> None:
    prompt = flow_prompt()
    assert prompt.labels[:2] == ("▦1:0,0", "▦1:0,1")
    assert prompt.labels[-2:] == ("red", "cup")
    assert prompt.kinds == ("image",) * 32 + ("text",) * 5
    assert prompt.cells is not None
    cell = prompt.cells[16 + 5]
    assert cell is not None
    assert (cell.picture, cell.left, cell.top, cell.right, cell.bottom) == (1, 8, 8, 16, 16)
    axes = flow().stacks.axes(prompt, EXPERT)
    assert axes.queries.labels == ("state", *(f"action {i}" for i in range(CHUNK)))
    assert axes.keys.labels == (*prompt.labels, *axes.queries.labels)
    assert axes.keys.cells is not None
    assert flow().stacks.axes(prompt, VISION).queries.labels == prompt.labels[:32]
    assert set(prompt.to_json()["sides"]) == set(prompt.sides)


def test_positions_of_which_nobody_speaks_are_numbered() -> None:
    prompt = reach_prompt()
    assert prompt.labels == tuple(str(i) for i in range(2 * 5 + 5))
    assert set(prompt.kinds) == {"unknown"}
    assert prompt.cells is None
    longer = reach().tokenize("pick it up", pictures=PICTURES)
    assert len(longer) == 2 * 5 + 3
    with pytest.raises(UserError, match=r"not known which positions of .* hold pictures"):
        hide_modalities(reach(), prompt)


def test_a_patchs_area_may_reach_beyond_the_picture() -> None:
    from models.stack_positions import stack_positions

    wide = noise_picture((64, 32))  # fitted into the upper half of a square
    patches = Patches(4, 4, area=(0, 0, 64, 64))
    found = stack_positions(18, "", ["class", patches, State()], [wide], "vision", "p")
    assert found.labels[0] == "class"
    assert found.kinds == ("special", *["image"] * 16, "state")
    assert found.cells is not None
    assert [cell is not None for cell in found.cells] == [False] + [True] * 8 + [False] * 9


def test_the_expert_can_be_kept_from_looking_at_the_pictures() -> None:
    head = Head(1, 2, EXPERT)
    cut = Ablation((head,), Knockout(("action",), ("image",)))
    [after] = flow().attention(flow_prompt(), [head], cut).values
    assert np.all(after[1:, :32] == 0)
    assert after[0, :32].sum() > 0.01  # the state's own row stays
    hidden = {one.name: one for one in hide_modalities(flow(), flow_prompt())}
    assert {name: one.n_positions for name, one in hidden.items()} == {
        "image": 32,
        "instruction": 5,
        "state": 1,
    }
    assert all(one.change.moved > 0 for one in hidden.values())


def test_changes_are_measured_in_parts_of_range() -> None:
    model, prompt = flow(), flow_prompt()
    space = model.chunk
    assert space is not None
    row = model.predict(prompt).log_probs
    numbers = row.reshape(CHUNK, N_NUMBERS)[:, :3]
    np.testing.assert_allclose(space.in_units(space.normalised(row)), numbers)
    np.testing.assert_allclose(space.normalised(row), numbers / [1, 4, 1], rtol=1e-6)
    scores = sweep_chunk(model, prompt, stack=EXPERT)
    assert scores.metric.unit == space.unit == "parts of range"
    ablation = Ablation((Head(2, 1, EXPERT),), Zero())
    other = model.predict(prompt, ablation=ablation).log_probs.reshape(CHUNK, N_NUMBERS)[:, :3]
    change = ((other - numbers) / [1, 4, 1]) ** 2
    assert scores.values[2, 1] == pytest.approx(np.sqrt(change.sum(1).mean()), rel=1e-4)
    plain = reach().chunk
    assert plain is not None
    assert (plain.unit, plain.n_steps) == ("own units", 1)
    assert [dimension.name for dimension in plain.dimensions] == ["a0", "a1", "a2"]


@pytest.mark.parametrize("stack", [VISION, MAIN, EXPERT])
def test_changes_of_heads_are_those_of_whole_maps(stack: str) -> None:
    model, prompt = flow(), flow_prompt()
    pictures = [PICTURES[0], noise_picture((32, 32), 9)]
    other = model.tokenize(INSTRUCTION, pictures=pictures, robot=ROBOT)
    found = attention_change(with_prompt(model, prompt, other, stack)).values
    heads = model.all_heads(stack)
    maps = [model.attention(one, heads).values for one in (prompt, other)]
    expected = [map_change(one, two) for one, two in zip(*maps, strict=True)]
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-6)
    assert max(expected) > 1e-4


def test_all_heads_of_a_stack_are_drawn_on_the_picture() -> None:
    found = on_picture(flow(), flow_prompt(), EXPERT)
    rows = flow().attention(flow_prompt(), flow().all_heads(EXPERT)).values[:, 1:]
    expected = rows.mean(axis=1)[:, :32].reshape(3, 4, 32)  # of the actions, without the state
    np.testing.assert_allclose(found.weights, expected, atol=1e-6)


def test_what_tells_of_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="does nothing without pictures"):
        flow().prompt_of_ids([3, 4])
    with pytest.raises(UserError, match="reads pictures; its attention maps"):
        _ = flow().residual


def test_prompts_are_told_apart_by_all_that_is_told() -> None:
    others = [
        flow().tokenize("pick up the green cup", pictures=PICTURES, robot=ROBOT),
        flow_prompt(RobotInput((1.5, -1.0), 3)),
        flow_prompt(RobotInput((1.5, -1.25), 4)),
    ]
    assert len({one.content for one in [flow_prompt(), *others]}) == 4
    rows = [flow().predict(one).log_probs for one in (flow_prompt(), *others)]
    assert all(np.abs(rows[0] - row).max() > 1e-3 for row in rows[1:])
    drawn = flow().with_draw(flow_prompt(), 4)
    np.testing.assert_array_equal(flow().predict(drawn).log_probs, rows[3])


@pytest.mark.parametrize(
    ("text", "n_pictures", "robot", "said"),
    [
        (" ", 2, None, "instruction is empty"),
        (INSTRUCTION, 1, None, "by 2 cameras, and 1 picture was given"),
        (INSTRUCTION, 3, None, "by 2 cameras, and 3 pictures were given"),
        (INSTRUCTION, 2, RobotInput((1.0,)), "a state of 2 finite numbers, and 1 was given"),
        (INSTRUCTION, 2, RobotInput((1.0, float("nan"))), "2 finite numbers"),
        (INSTRUCTION, 2, RobotInput(step=3), "no step 3; .* steps are 0 to 2"),
    ],
)
def test_what_a_prompt_lacks_is_said(
    text: str, n_pictures: int, robot: RobotInput | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        flow().tokenize(text, pictures=[noise_picture()] * n_pictures, robot=robot)


def test_no_state_stands_for_zeros() -> None:
    none, zeros = flow_prompt(RobotInput()), flow_prompt(RobotInput((0.0, 0.0)))
    assert none.content == zeros.content


# --- what a person may get wrong ----------------------------------------------------------


def opened(act: Act | None = None, **parts: Any) -> LanguageModel:
    """Open the policy of `REACH`, on one picture, with parts that differ."""
    model = Reach()

    def own(rows: int, _draw: int, seen: Observation) -> Tensor:
        pixels = torch.from_numpy(seen.pictures[0]).permute(2, 0, 1)[None, :, :32, :32] / 255
        return model([pixels.expand(rows, -1, -1, -1)], torch.tensor([[4, 2]]).expand(rows, -1))

    def changed(rows: int, draw: int, seen: Observation) -> Tensor:
        return own(rows, draw, seen) if act is None else act(rows, draw, seen)

    own_parts: dict[str, Any] = {"stacks": {"language": model.language, "vision": model.tower}}
    chosen = {**own_parts, **parts}

    def named(part: Any) -> Any:
        if isinstance(part, list):
            return [named(one) for one in part]
        return getattr(model, part) if isinstance(part, str) else part

    chosen["stacks"] = {name: named(part) for name, part in chosen["stacks"].items()}
    policy = Policy(model, changed, **chosen)
    return LanguageModel(*wrapped(policy, "mine"), name="mine")


def fails(_rows: int, _draw: int, _seen: Observation) -> Tensor:
    raise KeyError("wrist")


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda rows, _draw, _seen: torch.zeros(rows, 3), "no attention layer of the stack"),
        (lambda _rows, _draw, _seen: torch.zeros(2, 3), "2 actions for 1 rows"),
        (lambda _rows, _draw, _seen: None, "returns a NoneType; it must return a tensor"),
        (lambda rows, _draw, _seen: torch.zeros(rows), r"of shape \[1\]; it must return"),
        (lambda rows, _draw, _seen: torch.full((rows, 3), torch.nan), "not finite"),
        (fails, r"act fails \(line \d+: KeyError: 'wrist'\)"),
    ],
)
def test_what_a_function_does_wrong_is_said(act: Act, said: str) -> None:
    with pytest.raises(UserError, match=f"^mine: .*{said}"):
        opened(act)


def rows_of(mix: Callable[[Tensor], Tensor]) -> LanguageModel:
    """Open the policy of `REACH` with what becomes of the rows' hidden states changed."""
    model = Reach()
    model.tower.register_forward_hook(
        lambda _module, _args, output: type(output)(last_hidden_state=mix(output[0]))
    )

    def act(rows: int, _draw: int, seen: Observation) -> Tensor:
        pixels = torch.from_numpy(seen.pictures[0]).permute(2, 0, 1)[None, :, :32, :32] / 255
        return model([pixels.expand(rows, -1, -1, -1)], torch.tensor([[4, 2]]).expand(rows, -1))

    policy = Policy(model, act, {"language": model.language, "vision": model.tower})
    return LanguageModel(*wrapped(policy, "mine"), name="mine")


def test_rows_must_be_independent() -> None:
    with pytest.raises(UserError, match="answers two equal rows differently"):
        rows_of(lambda hidden: hidden + torch.arange(len(hidden))[:, None, None])
    with pytest.raises(UserError, match="done to heads in one row is felt in another"):
        rows_of(lambda hidden: hidden.mean(dim=0, keepdim=True).expand_as(hidden))


def two_positions(_seen: Observation) -> dict[str, Sequence[Any]]:
    return {"language": [Words(["pick", "up"])]}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"stacks": {"language": "numbers"}}, "no attention layer of the stack 'language'"),
        ({"stacks": {}}, "it names no stack; name each"),
        ({"stacks": {"Vision 2": "tower"}}, "no stack can be called 'Vision 2'"),
        ({"stacks": {"a": "tower", "b": "tower"}}, "'a' and 'b' have an attention layer in common"),
        ({"stacks": {"all": [3]}}, "each of stacks must be a module of torch, or a list"),
        ({"looks_at": {"expert": ["language"]}}, "looks_at names 'expert', and its stacks are"),
        ({"looks_at": {"language": ["head"]}}, "looks_at names 'head'"),
        ({"positions": two_positions}, "describes 2 positions .* and it runs with 7"),
        ({"stacks": {"vision": 3}}, "each of stacks must be a module of torch"),
        ({"looks_at": {"language": "vision"}}, "each of looks_at must be a list of stacks' names"),
        ({"looks_at": {"language": None}}, "each of looks_at must be a list of stacks' names"),
        ({"numbers": [Number("dx", limits=(1,))]}, "limits of a Number are a smallest number and"),  # type: ignore[arg-type]
        ({"numbers": [Number("dx", limits=("a", "b"))]}, "limits of a Number are"),  # type: ignore[arg-type]
        ({"numbers": ["dx"]}, "numbers must be a list of Number"),
        ({"cameras": -1}, "cameras and state are counts"),
        ({"positions": 3}, "positions must be a function"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^mine: .*{said}"):
        opened(**parts)


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        ({"arm": []}, "positions names 'arm'"),
        ({"language": 3}, "what positions says of the stack 'language' cannot be read"),
        ({"vision": Patches(2, 2)}, "what positions says of the stack 'vision' cannot be read"),
        ({"language": [Words(3)]}, "what positions says of the stack 'language' cannot be read"),  # type: ignore[arg-type]
        ({"language": [5]}, "holds a int; give Patches, Words, State, Actions or a text"),
        ({"vision": [Patches(2, 2, camera=1)]}, "cameras are counted from 0 to 0"),
        ({"vision": [Actions(2)]}, "describes 2 positions of the stack 'vision'.* runs with 5"),
    ],
)
def test_positions_that_make_no_sense_are_refused(positions: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        opened(positions=lambda _seen: positions)


def test_a_failing_function_of_positions_is_told_of() -> None:
    with pytest.raises(UserError, match=r"its function positions fails \(KeyError: 'language'\)"):
        opened(positions=lambda _seen: {}["language"])
    with pytest.raises(UserError, match="looks at 12 positions, and it runs with 7"):
        opened(looks_at={"language": ["language", "vision"]})


def test_layers_that_join_other_positions_are_no_stack() -> None:
    with pytest.raises(UserError, match="join other positions from layer to layer"):
        opened(stacks={"all": ["tower", "language"]})


def eager_as_it_acts() -> tuple[Reach, Act]:
    """Return the policy of `REACH` on one picture, which asks for eager attention by itself."""
    model = Reach()

    def act(rows: int, _draw: int, seen: Observation) -> Tensor:
        model.language.config._attn_implementation = "eager"
        pixels = torch.from_numpy(seen.pictures[0][:32, :32]).permute(2, 0, 1)[None] / 255
        numbers: Tensor = model(
            [pixels.expand(rows, -1, -1, -1)], torch.tensor([[4, 2]]).expand(rows, -1)
        )
        return numbers

    return model, act


def test_a_policy_may_ask_for_eager_attention_as_it_acts() -> None:
    own, act = eager_as_it_acts()
    adapter = Policy(own, act, {"language": own.language, "vision": own.tower})
    model = LanguageModel(*wrapped(adapter, "mine"), name="mine")
    prompt = model.tokenize("go", pictures=PICTURES[:1])
    heads = model.all_heads()
    found = model.ablated_logprobs(prompt, [[head] for head in heads], Zero()).numpy()
    plain, _ = plain_reach()
    pixels = torch.from_numpy(PICTURES[0].pixels).permute(2, 0, 1)[None] / 255
    for row, head in zip(found, heads, strict=True):
        handle = scale_head(projections(plain.language)[head.layer], head.head, 0)
        with torch.inference_mode():
            [expected] = plain([pixels], torch.tensor([[4, 2]])).numpy()
        handle.remove()
        np.testing.assert_allclose(row, expected, atol=TOLERANCE, err_msg=str(head))


def test_eager_attention_stays_what_it_is_where_nothing_is_asked() -> None:
    plain, _ = plain_reach()
    hidden = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = plain.language(inputs_embeds=hidden, output_attentions=True)
        plain.language.set_attn_implementation("sdpa")
        expected = plain.language(inputs_embeds=hidden).last_hidden_state
    torch.testing.assert_close(found.last_hidden_state, expected, atol=TOLERANCE, rtol=0)
    for weights in found.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 6), atol=TOLERANCE, rtol=0)


def test_a_policy_may_see_and_be_told_nothing() -> None:
    policy = make_policy()
    ids = torch.tensor([[IMAGE_ID] * 16 + [2, 5, 9]])
    given = {
        "state": torch.zeros(1, N_NUMBERS),
        "input_ids": ids,
        "pixel_values": torch.rand(1, 1, 3, 32, 32),
        "attention_mask": torch.ones_like(ids),
        "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool),
    }

    def act(rows: int, draw: int, _seen: Observation) -> Tensor:
        noise = torch.randn(1, CHUNK, N_NUMBERS, generator=torch.Generator().manual_seed(draw))
        expanded = {name: value.expand(rows, *value.shape[1:]) for name, value in given.items()}
        found: Tensor = policy.sample_actions(noise=noise.expand(rows, -1, -1), **expanded)
        return found

    adapter = Policy(policy, act, {"expert": policy.model.dit}, cameras=0, instructed=False)
    model = LanguageModel(*wrapped(adapter, "blind"), name="blind")
    assert not model.reads_pictures
    prompt = model.tokenize("")
    assert model.attention(prompt, [Head(1, 2)]).values.shape == (1, 1 + CHUNK, 19 + 1 + CHUNK)
    assert len(model.ablated_logprobs(prompt, [[h] for h in model.all_heads()], Zero())) == 12
    assert model.stacks.named("expert").n_layers == 3
    assert N_STEPS == 3
    with pytest.raises(UserError, match="answers with the numbers of an action; its attention"):
        _ = model.residual
    with pytest.raises(UserError, match="text alone, and blind answers with the numbers"):
        model.prompt_of_ids([3])
    with pytest.raises(UserError, match="by no cameras, and 1 picture was given"):
        model.tokenize("", pictures=[noise_picture()])


def test_a_tower_that_sees_windows_packed_is_a_stack_like_others() -> None:
    """Qwen2.5-VL's: all rows' patches stand in one row, and two of three layers see windows."""

    def made() -> Any:
        directory = tiny_vision_directory("qwen2.5-vl")
        return AutoModelForImageTextToText.from_pretrained(directory).eval()

    plain, model = made(), made()
    plain.set_attn_implementation("eager")
    read = nn.Linear(32, 3)

    def answer(own: Any, rows: int, pixels: np.ndarray) -> Tensor:
        given = (
            torch.from_numpy(pixels[:64, :64] / 255)
            .float()
            .reshape(64, 8, 8, 3)
            .permute(0, 3, 1, 2)
        )
        patches = given[:, :, None].expand(-1, -1, 2, -1, -1).reshape(64, -1)
        grids = torch.tensor([[1, 8, 8]]).repeat(rows, 1)
        seen = own.model.visual(patches.repeat(rows, 1), grid_thw=grids).pooler_output
        numbers: Tensor = read(seen.unflatten(0, (rows, -1)).flatten(2)[:, 3])
        return numbers

    adapter = Policy(
        model,
        lambda rows, _draw, seen: answer(model, rows, seen.pictures[0]),
        {"tower": model.model.visual},
        instructed=False,
    )
    wrapper = LanguageModel(*wrapped(adapter, "mine"), name="mine")
    picture = noise_picture((64, 64), 3)
    prompt = wrapper.tokenize("", pictures=[picture])
    heads = wrapper.all_heads()
    assert len(heads) == 12
    found = wrapper.ablated_logprobs(prompt, [[head] for head in heads], Zero()).numpy()
    layers = [block.attn.proj for block in plain.model.visual.blocks]
    for row, head in zip(found, heads, strict=True):
        with zeroed(layers[head.layer], head.head, 4), torch.inference_mode():
            [expected] = answer(plain, 1, picture.pixels).numpy()
        np.testing.assert_allclose(row, expected, atol=TOLERANCE, err_msg=str(head))
    maps = wrapper.attention(prompt, heads).values
    assert ((maps > 0).mean(axis=(1, 2)).reshape(3, 4)[:, 0] == [0.25, 1.0, 0.25]).all()


def opened_as(
    model: nn.Module, act: Act, stacks: dict[str, nn.Module], cameras: int = 1
) -> LanguageModel:
    policy = Policy(model, act, stacks, cameras=cameras)
    return LanguageModel(*wrapped(policy, "mine"), name="mine")


def test_a_tower_that_is_run_once_for_all_rows_is_told_of() -> None:
    model = Reach()

    def act(rows: int, _draw: int, seen: Observation) -> Tensor:
        pixels = torch.from_numpy(seen.pictures[0]).permute(2, 0, 1)[None, :, :32, :32] / 255
        features = model.tower(pixel_values=pixels).last_hidden_state.expand(rows, -1, -1)
        hidden = model.language(inputs_embeds=features).last_hidden_state
        return model.numbers(hidden[:, -1])  # type: ignore[no-any-return]

    with pytest.raises(UserError, match=r"^mine: .*runs an attention layer once for several"):
        opened_as(model, act, {"language": model.language, "vision": model.tower})


def test_how_often_layers_run_is_measured_on_each_prompt() -> None:
    """A dark picture is looked at once, a bright one twice: what is read is the last time."""
    model = Reach()
    last: list[Tensor] = []

    def act(rows: int, _draw: int, seen: Observation) -> Tensor:
        pixels = torch.from_numpy(seen.pictures[0]).permute(2, 0, 1)[None, :, :32, :32] / 255
        pixels = pixels.expand(rows, -1, -1, -1)
        for brightness in (1.0, 0.5)[: 1 + int(seen.pictures[0].mean() > 64)]:
            seen_parts = model.tower(pixel_values=brightness * pixels).last_hidden_state
        hidden = model.language(inputs_embeds=seen_parts).last_hidden_state
        last[:] = [brightness * pixels]
        return model.numbers(hidden[:, -1])  # type: ignore[no-any-return]

    wrapper = opened_as(model, act, {"language": model.language, "vision": model.tower})
    plain, _ = plain_reach()
    for shade in (20, 200):
        pixels = np.full((32, 32, 3), shade, np.uint8)
        pixels[8:, 4:] //= 2
        prompt = wrapper.tokenize("go", pictures=[Picture(pixels, "shade")])
        found = wrapper.attention(prompt, wrapper.all_heads("vision")).values
        with torch.inference_mode():
            run = plain.tower(pixel_values=last[0][:1], output_attentions=True)
        expected = torch.cat([pattern[0] for pattern in run.attentions]).numpy()
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_what_a_person_changes_as_their_policy_acts_counts() -> None:
    """A head that scales what it makes by what it is told as it acts."""

    class Gained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(32, 8), nn.Linear(8, 32)
            self.act = nn.SiLU()
            self.gain = 1.0

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.gain * self.down(self.act(self.up(x)))
            return out

    torch.manual_seed(1)
    model, head = Reach(), Gained().eval()

    def act(rows: int, _draw: int, _seen: Observation) -> Tensor:
        head.gain = 3.0
        hidden = model.language(torch.tensor([[4, 2]]).expand(rows, -1)).last_hidden_state[:, -1]
        return model.numbers(head(hidden))  # type: ignore[no-any-return]

    model.add_module("head", head)
    wrapper = opened_as(model, act, {"language": model.language}, cameras=0)
    with torch.inference_mode():
        [expected] = act(1, 0, Observation((), "", ())).numpy()
    found = wrapper.predict(wrapper.tokenize("go")).log_probs
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
