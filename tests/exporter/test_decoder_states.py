"""What layers that do not attend carry: against transformers' own layers and cache, on sequences without padding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tokexport.exporter.decoders.attention import NAME  # noqa: E402
from tokexport.exporter.decoders.language import Decode, LanguageDecoder, Positions, Prefill  # noqa: E402
from tokexport.exporter.decoders.states import CHUNK, attends, counted, in_chunks, masks, one_step, prepare  # noqa: E402
from tokexport.exporter.families.multimodal_reference import repeating  # noqa: E402

KEEP, PROMPT, ANSWER, VOCABULARY = 3, 6, 4, 11


def parts(length: int, alike: float) -> tuple[Any, ...]:
    """Queries, keys, values, decays, betas; with `alike` near 1 keys are nearly one, and nothing is forgotten."""
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    keys = (1 - alike) * make(2, 2, length, 8) + alike * make(1, 1, 1, 8)
    beta = alike + (1 - alike) * torch.rand(2, 2, length, generator=generator)
    decay = (alike - 1) * torch.rand(2, 2, length, generator=generator)
    return make(2, 2, length, 8), keys / keys.norm(dim=-1, keepdim=True), make(2, 2, length, 6), decay, beta


@pytest.mark.parametrize("length", [5, CHUNK, 2 * CHUNK + 7])
@pytest.mark.parametrize("alike", [0.0, 0.999])
def test_chunks_are_one_token_after_the_other(length, alike):
    given = parts(length, alike)
    state, said = torch.zeros(2, 2, 8, 6), []
    for at in range(length):
        out, state = one_step(*(x[:, :, at : at + 1] for x in given), state)
        said.append(out)
    out, last = in_chunks(*given)
    torch.testing.assert_close(out, torch.cat(said, 2), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(last, state, atol=2e-5, rtol=1e-4)


def updates(times: float, logit: Any) -> tuple[Any, Any]:
    """What `counted` makes of one update, and whole numbers of updates one after the other, from one state."""
    query, key, value, decay, _ = parts(1, 0.0)
    before = torch.randn(2, 2, 8, 6, generator=torch.Generator().manual_seed(1))
    state = before
    for _ in range(int(times)):
        out, state = one_step(query, key, value, decay, logit.sigmoid(), state)
    changed = counted(value, decay, logit, torch.full((2, 1, 1), times))
    return one_step(query, key, *changed, before), (out, state)


@pytest.mark.parametrize("times", [2.0, 5.0, 40.0])
@pytest.mark.parametrize("logit", [-120.0, -12.0, -3.0, 0.0, 2.0, 30.0])
def test_one_update_is_n_updates(times, logit):
    """Also where one writes all, b = 1, or nothing."""
    found, wanted = updates(times, torch.full((2, 2, 1), logit))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_once_is_what_it_was_and_never_is_nothing():
    """To the bit: methods that merge nothing give what they gave."""
    _, _, value, decay, _ = parts(7, 0.0)
    logit = 4 * torch.randn(2, 2, 7, generator=torch.Generator().manual_seed(2))
    once = counted(value, decay, logit, torch.ones(2, 1, 7))
    assert all(torch.equal(x, y) for x, y in zip(once, (value, decay, logit.sigmoid())))
    assert not any(x.any() for x in counted(value, decay, logit, torch.zeros(2, 1, 7)))


def lfm2() -> Any:
    from transformers import Lfm2Config, Lfm2Model

    kinds = ["conv", "full_attention", "conv"]
    return Lfm2Model(
        Lfm2Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=16,
            block_multiple_of=8,
            num_hidden_layers=3,
            layer_types=kinds,
            num_attention_heads=2,
            num_key_value_heads=1,
            conv_bias=True,
            attn_implementation=NAME,
        )
    )


def qwen3_5() -> Any:
    from transformers import Qwen3_5TextConfig, Qwen3_5TextModel

    return Qwen3_5TextModel(
        Qwen3_5TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            linear_num_key_heads=1,
            linear_num_value_heads=2,
            linear_key_head_dim=4,
            linear_value_head_dim=6,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
            attn_implementation=NAME,
        )
    )


@pytest.fixture(scope="module", params=[lfm2, qwen3_5])
def model(request: pytest.FixtureRequest) -> Any:
    import tiny_checkpoints

    made = request.param()
    tiny_checkpoints.enliven(made, 1)
    return made.eval()


@pytest.fixture(scope="module")
def decoder(model: Any) -> LanguageDecoder:
    import copy

    own = copy.deepcopy(model)
    return LanguageDecoder(
        model=own,
        head=torch.nn.Linear(16, VOCABULARY),
        layers=3,
        heads=1,
        head_dim=8,
        dim=16,
        positions=Positions.in_a_row(KEEP),
        offset=1,
        prompt_length=PROMPT,
        answer_length=ANSWER,
        pad=0,
        states=prepare(own),
    )


@pytest.mark.parametrize("length", [1, 3, PROMPT])
def test_padding_changes_no_state_and_no_word(model, decoder, length):
    """A prompt of 1 to P ids and the tokens, padded, then two words: what transformers says without any padding."""
    from transformers import DynamicCache

    generator = torch.Generator().manual_seed(length)
    embeds = torch.randn(1, PROMPT + KEEP, 16, generator=generator)
    last = length + KEEP - 1
    with torch.no_grad():
        logits, *found = Prefill(decoder)(embeds, torch.arange(KEEP)[None], torch.zeros(1, KEEP), torch.tensor([last]))
        model.config._attn_implementation = "eager"
        cache = DynamicCache(config=model.config)
        whole = model(inputs_embeds=embeds[:, : last + 1], past_key_values=cache, use_cache=True)
        torch.testing.assert_close(logits, decoder.head(whole.last_hidden_state[:, -1]), atol=1e-4, rtol=1e-4)
        caches, states = found[: len(decoder.caches)], found[len(decoder.caches) :]
        for step, word in enumerate((5, 7)):
            index = torch.tensor([last + 1 + step])
            logits, *new = Decode(decoder, KEEP)(torch.tensor([[word]]), index, torch.zeros(1, KEEP), *caches, *states)
            said = model(input_ids=torch.tensor([[word]]), past_key_values=cache, use_cache=True)
            torch.testing.assert_close(logits, decoder.head(said.last_hidden_state[:, -1]), atol=1e-4, rtol=1e-4)
            for buffer, part in zip(caches, new):
                buffer[:, :, index] = part
            states = new[len(caches) :]
    assert [tuple(state.shape[1:]) for state in states] == list(decoder.carried.values())


@pytest.mark.parametrize("length", [1, 3, PROMPT])
def test_a_merged_token_counts_in_linear_layers_as_all_that_it_stands_for(model, decoder, length):
    """As transformers' own code does where it takes that token as often; a short convolution reads it once."""
    from transformers import DynamicCache

    embeds = torch.randn(1, PROMPT + KEEP, 16, generator=torch.Generator().manual_seed(length))
    last, sizes = length + KEEP - 1, torch.tensor([3, 1, 6])
    bias = torch.nn.functional.pad(sizes.float().log(), (decoder.offset, length - decoder.offset))
    times = bias.exp().round().long()
    rows = torch.arange(last + 1)
    mask = torch.where(rows <= rows[:, None], bias, -1e9)[None, None]
    kinds = set(model.config.layer_types)
    with torch.no_grad():
        logits, *found = Prefill(decoder)(
            embeds, torch.arange(KEEP)[None], sizes.float().log()[None], torch.tensor([last])
        )
        model.config._attn_implementation = "eager"
        cache = DynamicCache(config=model.config)
        with repeating(model, lambda _: times):
            whole = model(
                inputs_embeds=embeds[:, : last + 1],
                attention_mask={kind: mask if kind == "full_attention" else None for kind in kinds},
                past_key_values=cache,
                use_cache=True,
            )
        once = model(inputs_embeds=embeds[:, : last + 1], use_cache=False)
    wanted = decoder.head(whole.last_hidden_state[:, -1])
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)
    assert (decoder.head(once.last_hidden_state[:, -1]) - wanted).abs().max() > 1e-3
    for name, state in zip(decoder.carried, found[len(decoder.caches) :]):
        kind, layer = name.rsplit("_", 1)
        kept = cache.layers[int(layer)]
        own = kept.recurrent_states if kind == "linear" else kept.conv_states
        torch.testing.assert_close(state, own[0][..., -state.shape[-1] :], atol=1e-4, rtol=1e-4)


def test_a_state_does_not_know_what_pads(decoder):
    """Whatever stands behind the last id, and also where a prompt is shorter than a convolution."""
    generator = torch.Generator().manual_seed(9)
    embeds = torch.randn(2, PROMPT + KEEP, 16, generator=generator)
    embeds[1, :2] = embeds[0, :2]
    with torch.no_grad():
        found = Prefill(decoder)(embeds, torch.arange(KEEP).expand(2, -1), torch.zeros(2, KEEP), torch.tensor([1, 1]))
    states = found[-len(decoder.carried) :]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in states)
    assert all(state.abs().max() > 1e-3 for state in states)


def test_models_all_of_whose_layers_attend_are_as_before():
    plain = SimpleNamespace(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
    mask = torch.zeros(1, 1, 2, 2)
    assert attends(plain) == attends(SimpleNamespace(num_hidden_layers=2)) == [True, True]
    assert masks(plain, mask, torch.ones(1, 2)) is mask
    assert prepare(SimpleNamespace(layers=[object(), object()], config=plain)) == {}


def test_a_state_is_summed_in_float32_whatever_the_precision(decoder, request):
    if "qwen3_5" not in request.node.name:
        pytest.skip("it has convolutions alone")
    from tokexport.exporter.bundling.typed import typed
    from tokexport.exporter.sources.torch_export import export_graph

    decode = next(graph for graph in decoder.graphs(KEEP, [1, 2], 5) if graph.role == "decode")
    half, _ = typed(export_graph(decode), "bf16")
    ends = {value.name: value for value in half.graph.outputs}
    state = next(value for name, value in ends.items() if "state_linear_" in (name or ""))
    # What the state is computed from is in float32, up to the projections, which are not.
    todo, seen = [state.producer()], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen or node.op_type in ("Conv", "Cast"):
            continue
        seen.add(node)
        assert all(one.dtype.name != "BFLOAT16" for one in (*node.inputs, *node.outputs) if one is not None), node
        todo += [one.producer() for one in node.inputs if one is not None]
    assert len(seen) > 5
    assert any(node.op_type == "MatMul" and node.outputs[0].dtype.name == "BFLOAT16" for node in half.graph)


@pytest.mark.slow
def test_tensorrt_rtx_builds_the_graphs(decoder, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    from tokexport.exporter.sources.torch_export import export_graph
    from tokexport.graph_passes.ir_tools.model_io import save_model
    from tokexport.runtimes.tensorrt import rtx

    for graph in decoder.graphs(KEEP, [1, 2], 5)[1:]:
        save_model(export_graph(graph), tmp_path / f"{graph.role}.onnx", f"{graph.role}.data")
        built = rtx.build(tmp_path / f"{graph.role}.onnx")
        assert built.ok, "\n".join(map(str, built.errors))


def test_an_id_that_is_read_as_zero():
    """Granite-Speech looks up word 0 where an answer holds the mark of a sound."""
    from tokexport.exporter.decoders.embeddings import WithZero

    words = torch.nn.Embedding(6, 3)
    assert torch.equal(WithZero(words, 4)(torch.tensor([[1, 4, 0, 5]])), words(torch.tensor([[1, 0, 0, 5]])))
