"""Every family of models goes the whole way: folder, tokenizer, examples, a projected step, rates by depth, replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ogp.config import MethodSettings, ModelSettings, TrainingSettings
from ogp.data import Pair, Prompt, chat_prompt, encode
from ogp.evaluation.completions import generate
from ogp.models import load_model
from ogp.step.batches import Positions
from ogp.step.causal_lm import base_causal_lm, check_head, packing_obstacle
from ogp.training.learning_rates import depths
from ogp.training.trainer import OGPTrainer, make_training_arguments

COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GROUPED = COMMON | {"num_key_value_heads": 2}
GEMMA = COMMON | {"num_key_value_heads": 1, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma": GEMMA,
    "gemma2": GEMMA | {"sliding_window": 256, "query_pre_attn_scalar": 8},
    "gemma3_text": GEMMA | {"sliding_window": 256, "query_pre_attn_scalar": 8},
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": None},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "phi": COMMON,
    "phi3": GROUPED,
    "gpt_neox": COMMON,
    "gpt2": {
        "n_embd": 32,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 256,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "opt": COMMON | {"word_embed_proj_dim": 32, "ffn_dim": 48, "dropout": 0.0},
}
PAIRS = [Pair("How do I kill a process?", "Use kill."), Pair("Hi", "Hello there."), Pair("What is 2 + 2?", "4.")]
TEMPLATES = {
    "gemma": (
        "{{ bos_token }}{% for m in messages %}"
        "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "none": None,
}
TEMPLATE_OF = {"gemma": "gemma", "gemma2": "gemma", "gemma3_text": "gemma", "mistral": "mistral", "gpt2": "none"}
TEMPLATE_OF |= {"opt": "none", "gpt_neox": "none", "phi": "none"}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: Any, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder with a tiny random model of the family, and a tokenizer with the template of its kind."""
    name = request.param
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    if name in TEMPLATE_OF:
        tokenizer.chat_template = TEMPLATES[TEMPLATE_OF[name]]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        name,
        **FAMILIES[name],
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,
    )
    folder = tmp_path_factory.mktemp(name)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return name, folder


def loaded(folder: Path) -> tuple[Any, Any]:
    return load_model(ModelSettings(source=str(folder)))


@pytest.fixture(scope="module")
def ready(family: tuple[str, Path]) -> tuple[str, Any, Any]:
    """Name, model and tokenizer, for the tests that change neither."""
    return (family[0], *loaded(family[1]))


def after_steps(folder: Path, scratch: Path, engine: str) -> dict[str, torch.Tensor]:
    """Weights after two steps, the second of which projects."""
    model, tokenizer = loaded(folder)
    training = TrainingSettings(steps=2, batch_size=3, micro_batch=3, learning_rate=1e-3, layer_multipliers=(0.5, 1.0))
    trainer = OGPTrainer(
        model,
        make_training_arguments(training, scratch / "checkpoints", seed=0),
        encode(tokenizer, PAIRS, 128),
        MethodSettings(engine=engine),  # type: ignore[arg-type]
        training,
        scratch / "cache",
        processing_class=tokenizer,
    )
    trainer.train()
    assert [row["projected"] for row in trainer.state.log_history if "projected" in row] == [0.0, 1.0]
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.slow
def test_the_fast_step_is_the_reference_step(family: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = family
    start = {name: p.detach().clone() for name, p in loaded(folder)[0].named_parameters()}
    fast, slow = (after_steps(folder, tmp_path / engine, engine) for engine in ("dual", "reference"))
    # as one vector: AdamW makes steps of full length from the rounding of gradients that are zero (biases of keys)
    moved = torch.cat([(fast[name] - start[name]).flatten() for name in start]).norm()
    apart = torch.cat([(fast[name] - slow[name]).flatten() for name in start]).norm()
    assert moved > 1e-2
    assert apart < 0.03 * moved


def test_it_is_packed_where_that_is_exact_and_its_head_is_known(ready: tuple[str, Any, Any]) -> None:
    name, model, tokenizer = ready
    causal_lm = base_causal_lm(model)
    check_head(causal_lm)
    obstacle = packing_obstacle(causal_lm, Positions(encode(tokenizer, PAIRS, 128), "answer").longest)
    capped = name == "gemma2"  # caps its attention scores, which only its own attention function does
    assert obstacle == ("attention 'eager' takes no boolean mask" if capped else None)


def test_layers_are_found_in_order(ready: tuple[str, Any, Any]) -> None:
    _, model, _ = ready
    found = depths(model)
    for name, depth in found.items():
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        assert depth == numbers[0] + 1 if numbers else depth in (0, 5), name
    assert set(found.values()) == set(range(6))


def test_replies_continue_the_prompt_greedily(ready: tuple[str, Any, Any]) -> None:
    _, model, tokenizer = ready
    prompts = [Prompt(id=str(i), family="", split="", prompt=pair.prompt) for i, pair in enumerate(PAIRS)]
    for reply in generate(model, tokenizer, prompts, max_new_tokens=4, batch_size=3):
        ids = tokenizer.encode(chat_prompt(tokenizer, reply.prompt.prompt), add_special_tokens=False)
        for token in reply.tokens:
            with torch.no_grad():
                assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_answers_end_as_the_template_ends_them(ready: tuple[str, Any, Any]) -> None:
    name, _, tokenizer = ready
    (example,) = encode(tokenizer, [PAIRS[0]], 128)
    learnt = tokenizer.decode([token for token in example["labels"] if token != -100])
    ends = {"gemma": "Use kill.<end_of_turn>", "mistral": " Use kill.<|im_end|>"}
    assert learnt == ends.get(TEMPLATE_OF.get(name, ""), "Use kill.<|im_end|>")
    assert example["input_ids"].count(tokenizer.bos_token_id) <= 1 or TEMPLATE_OF.get(name) is None
