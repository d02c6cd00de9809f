"""Policies that answer with a chunk of numbers, found by flow matching: PI0.

Noise becomes actions in a few steps: at each an action expert looks at what the language model made
of the pictures and the instruction, at the robot's state and at the actions so far, and says where
to go (Black et al. 2024, pi0; Lipman et al. 2023, flow matching). So that everything else works on
such a policy as on language models, it is made to look like one whose answer is not a distribution
but these numbers, flat, the same at whichever position they are read. Its attention layers are of
three stacks: vision tower, language model, action expert. The expert's run once a step; what is
done to a head is done at every step, and what is read is read at one of them.
"""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from models.attention_tap import TapRequest, active_request
from models.types import POLICY


class FlowPolicy(nn.Module):
    """PI0 as a model whose logits are the numbers of an action chunk."""

    kind = POLICY

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config.vlm_config
        self.chunk_size = int(model.config.chunk_size)
        self.n_numbers = int(model.config.max_action_dim)
        self.n_steps = int(model.config.num_inference_steps)
        self.first_of_expert: int | None = None
        """The number of the expert's first attention layer, once all layers are known."""
        self._step = self._read_at = 0
        self.expert.register_forward_pre_hook(self._begin_step)

    @property
    def name_or_path(self) -> str:
        return str(self.inner.name_or_path)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # its class is known to

    @property
    def expert(self) -> nn.Module:
        found: nn.Module = self.inner.model.dit
        return found

    def get_decoder(self) -> nn.Module:
        """Return what reads pictures and instruction: the language model."""
        found: nn.Module = self.inner.model.vlm.language_model
        return found

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.inner.get_input_embeddings()
        return found

    def get_output_embeddings(self) -> None:
        """There is no unembedding: actions are numbers."""

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        pixel_attention_mask: Tensor,
        attention_mask: Tensor,
        state: Tensor,
        noise: Tensor,
        steps: Tensor,
        **_options: Any,
    ) -> CausalLMOutput:
        """Return the chunk of each row, flat, the same at every position: [batch, position,
        chunk_size * n_numbers]."""
        n_steps, self._read_at = (int(n) for n in steps[0])
        self._step = 0
        chunk = self.inner.sample_actions(
            state=state,
            input_ids=input_ids,
            pixel_values=pixel_values,
            noise=noise,
            attention_mask=attention_mask,
            pixel_attention_mask=pixel_attention_mask,
            num_steps=n_steps,
        )
        numbers = chunk.flatten(1)[:, None]
        return CausalLMOutput(logits=numbers.expand(-1, input_ids.shape[1], -1))

    def _begin_step(self, _module: nn.Module, _args: Any) -> None:
        """Count the expert's layers from its first at each step; read at one step alone."""
        request = active_request()
        if isinstance(request, TapRequest) and self.first_of_expert is not None:
            request.n_calls = self.first_of_expert
            request.reading = self._step == self._read_at
        self._step += 1
