"""The distribution over answers, compared with the plain language model scoring one answer at a time."""

import math
import warnings

import pytest
import torch

from modeling_egmf.answers_egmf import AnswerSet
from modeling_egmf.scoring_egmf import visible_columns
from processing_egmf import EGMFTask
from tests.helpers.model_inputs import assert_close


TASKS = ["emotion", "cherma", "mosei", "sims_v2", "mood"]


# ---- the plain way -------------------------------------------------------------------------------------------


def prompt_embeds(model, inputs):
    """(S, D) of one sample: token embeddings, with pseudo tokens replacing the placeholders one by one."""
    table = model.get_input_embeddings().weight
    placeholder = model.config.placeholder_token_id
    ids = inputs["input_ids"][0].tolist()
    token_embeds = torch.stack([table[0] if i == placeholder else table[i] for i in ids])
    media = {k: v for k, v in inputs.items() if k.startswith(("audio_", "video_", "modality_"))}
    fusion = model.egmf(token_embeds[None].float(), inputs["utterance_mask"], **media)
    pseudo_tokens = iter(fusion.pseudo_tokens[0])
    rows = []
    for token, embed in zip(ids, token_embeds, strict=True):
        is_placeholder = token == placeholder
        rows.append(next(pseudo_tokens).to(table.dtype) if is_placeholder else embed)
    is_real = inputs["attention_mask"][0].tolist()
    return torch.stack([row for row, real in zip(rows, is_real, strict=True) if real])


@torch.no_grad()
def next_log_probs(model, prompt, tokens):
    """(V,) after the prompt and the tokens: one full forward pass, without cache or mask."""
    embeds = torch.cat([prompt, model.get_input_embeddings().weight[list(tokens)]])
    logits = model.language_model(inputs_embeds=embeds[None], use_cache=False).logits[0, -1]
    return torch.log_softmax(logits.float(), dim=-1)


def brute_force(model, inputs, answers):
    """Log-probabilities of the answers, each scored by itself, normalized over the set."""
    prompt = prompt_embeds(model, inputs)
    known = {}  # prefix -> next-token distribution
    scores = []
    for answer in answers:
        score = 0.0
        for i, token in enumerate(answer):
            prefix = tuple(answer[:i])
            if prefix not in known:
                known[prefix] = next_log_probs(model, prompt, prefix)
            score += float(known[prefix][token])
        scores.append(score)
    total = math.log(sum(math.exp(score - max(scores)) for score in scores)) + max(scores)
    return torch.tensor([score - total for score in scores])


def constrained(model, inputs, answers):
    """Probabilities of constrained decoding: at every step only tokens that lead on to an answer, renormalized."""
    prompt = prompt_embeds(model, inputs)
    results = {}

    def walk(prefix, probability):
        if prefix in answers:
            results[prefix] = probability
            return
        allowed = sorted({a[len(prefix)] for a in answers if a[: len(prefix)] == prefix})
        weights = next_log_probs(model, prompt, prefix)[allowed].exp().double()
        for token, weight in zip(allowed, (weights / weights.sum()).tolist(), strict=True):
            walk((*prefix, token), probability * weight)

    walk((), 1.0)
    return torch.tensor([results[answer] for answer in answers])


# ---- the trie ------------------------------------------------------------------------------------------------


def test_trie_of_a_small_set():
    answer_set = AnswerSet.from_token_ids(((5, 6), (5, 7, 8), (9,)))
    assert answer_set.node_tokens.tolist() == [5, 7]
    assert answer_set.node_parents.tolist() == [0, 1]
    assert answer_set.node_sees.tolist() == [[True, False], [True, True]]
    edges = list(zip(answer_set.edge_parents.tolist(), answer_set.edge_tokens.tolist(), strict=True))
    assert [[edges[i] for i in row if i >= 0] for row in answer_set.answer_edges.tolist()] == [
        [(0, 5), (1, 6)],
        [(0, 5), (1, 7), (2, 8)],
        [(0, 9)],
    ]


def test_single_tokens_need_no_nodes():
    answer_set = AnswerSet.from_token_ids(((3,), (4,)))
    assert answer_set.node_tokens.shape == (0,)
    assert answer_set.edge_parents.tolist() == [0, 0]


def test_branches_do_not_see_each_other():
    answer_set = AnswerSet.from_token_ids(((1, 2, 3), (4, 5, 6), (1, 7, 8)))
    tokens = answer_set.node_tokens.tolist()
    seen = {}
    for token, row in zip(tokens, answer_set.node_sees, strict=True):
        seen[token] = {tokens[j] for j in row.nonzero().flatten()}
    assert seen == {1: {1}, 2: {1, 2}, 4: {4}, 5: {4, 5}, 7: {1, 7}}


CPU = torch.device("cpu")


def make_batch(*answers):
    """The tries of samples with these answers, of which every one is a tuple of tokens."""
    samples = [[torch.tensor(answer) for answer in of_sample] for of_sample in answers]
    num_answers = max(map(len, samples))
    length = max(len(answer) for of_sample in samples for answer in of_sample)
    answer_ids = torch.full((len(samples), num_answers, length), -1)
    for padded, of_sample in zip(answer_ids, samples, strict=True):
        for row, answer in zip(padded, of_sample, strict=False):
            row[: len(answer)] = answer
    return AnswerSet.from_answer_ids(answer_ids, CPU)


def answer_log_probs(answers, logits, normalization):
    """logits (B, 1 + N, V) at the root and the inner nodes -> (B, A)."""
    num_samples, num_nodes, _ = logits.shape
    samples = torch.arange(num_samples).repeat_interleave(num_nodes)
    nodes = torch.arange(num_nodes).repeat(num_samples)
    return answers.log_probs(answers.edge_log_probs(logits.flatten(0, 1), samples, nodes), normalization)


def random_logits(num_samples=1):
    """(B, 3, 12) next-token logits of a root and two inner nodes."""
    return torch.randn(num_samples, 3, 12, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("normalization", ["sequence", "tree"])
def test_probabilities_sum_to_one(normalization):
    answers = make_batch([(5, 6), (5, 7, 8), (9,)])
    log_probs = answer_log_probs(answers, random_logits(), normalization)
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_log_probs_add_up_along_the_path():
    answers = make_batch([(5, 6), (5, 7, 8), (9,)], [(1,), (2,)])
    steps = torch.log_softmax(random_logits(2), dim=-1)
    raw = [steps[0, 0, 5] + steps[0, 1, 6], steps[0, 0, 5] + steps[0, 1, 7] + steps[0, 2, 8], steps[0, 0, 9]]
    actual = answer_log_probs(answers, random_logits(2), "sequence")
    torch.testing.assert_close(actual[0], torch.log_softmax(torch.stack(raw), dim=0))
    torch.testing.assert_close(actual[1, :2], torch.log_softmax(steps[1, 0, 1:3], dim=0))
    assert actual[1, 2] == -math.inf


def test_tree_renormalizes_each_node():
    answers = make_batch([(5, 6), (5, 7), (9,)])
    steps = torch.log(torch.full((1, 2, 12), 1e-3))
    steps[0, 0, 5] = math.log(0.06)
    steps[0, 0, 9] = math.log(0.02)
    steps[0, 1, 6] = math.log(0.001)
    steps[0, 1, 7] = math.log(0.003)
    expected = torch.tensor([[0.75 * 0.25, 0.75 * 0.75, 0.25]])
    torch.testing.assert_close(answer_log_probs(answers, steps, "tree").exp(), expected)


def test_nodes_may_be_scored_in_parts(monkeypatch):
    monkeypatch.setattr("modeling_egmf.precision_egmf.CPU_CHUNK_ELEMENTS", 24)  # two rows at a time
    answers = make_batch([(5, 6), (5, 7, 8), (9,)], [(1, 2), (2, 3), (4,)])
    logits = random_logits(2)
    steps = torch.log_softmax(logits, dim=-1)
    expected = torch.stack(
        [
            torch.stack([steps[0, 0, 5], steps[0, 1, 6], steps[0, 1, 7], steps[0, 2, 8], steps[0, 0, 9]]),
            torch.stack([steps[1, 0, 1], steps[1, 1, 2], steps[1, 0, 2], steps[1, 2, 3], steps[1, 0, 4]]),
        ]
    )
    samples = torch.arange(2)
    parts = [answers.edge_log_probs(logits[:, node], samples, torch.full((2,), node)) for node in range(3)]
    root, first_node, second_node = parts
    torch.testing.assert_close(root + first_node + second_node, expected)
    assert ((root != 0).int() + (first_node != 0).int() + (second_node != 0).int() == 1).all()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (((1, 2), (1, 2)), "Two answers have the same tokens"),
        (((), (1, 2)), "There are no answers, or one has no tokens"),
        (((1, 2), (1,)), "One answer is a prefix of another"),
        (((1,), (1, 2, 3)), "One answer is a prefix of another"),
    ],
)
def test_impossible_sets_are_refused(answers, message):
    with pytest.raises(ValueError, match=message):
        AnswerSet.from_token_ids(answers)


def test_equal_sets_are_built_once(monkeypatch):
    built = []
    build = AnswerSet.from_token_ids

    def count(token_ids, device):
        built.append(token_ids)
        return build(token_ids, device)

    monkeypatch.setattr(AnswerSet, "from_token_ids", count)
    answers = make_batch([(1, 2), (3,)], [(4,)], [(1, 2), (3,)])
    assert sorted(built) == [((1, 2), (3,)), ((4,), ())]
    assert answers.node_tokens.tolist() == [[1], [0], [1]]
    assert answers.answer_edges.tolist() == [[[0, 1], [2, -1]], [[0, -1], [-1, -1]], [[0, 1], [2, -1]]]
    assert build(((1, 2), (3,)), CPU) is build(((1, 2), (3,)), CPU)


def test_no_answer_at_all_is_refused():
    with pytest.raises(ValueError, match="answer"):
        AnswerSet.from_answer_ids(torch.full((1, 2, 2), -1), CPU)


def test_empty_answer_before_others_is_refused():
    with pytest.raises(ValueError, match="no tokens"):  # else every later probability stands in the wrong position
        AnswerSet.from_answer_ids(torch.tensor([[[-1, -1], [5, -1], [6, -1]]]), CPU)


def test_answers_that_no_sample_has_get_no_probability():
    answers = AnswerSet.from_answer_ids(torch.tensor([[[5, -1], [6, -1], [-1, -1]]]), CPU)
    log_probs = answers.log_probs(torch.zeros(1, 2), "sequence")
    torch.testing.assert_close(log_probs.exp(), torch.tensor([[0.5, 0.5, 0.0]]))


def test_nodes_see_prompt_ancestors_and_themselves_only():
    answers = make_batch([(5, 6), (5, 7, 8), (9, 1)], [(5, 6), (5, 7, 8), (9, 1)])
    visible = visible_columns(answers, torch.tensor([[0, 0, 1], [1, 1, 1]]))
    for sample, prompt in enumerate(({2}, {0, 1, 2})):
        tokens = answers.node_tokens[sample].tolist()
        assert set(tokens) == {5, 7, 9}
        assert set(torch.where(visible[sample, 0])[0].tolist()) == prompt  # the root
        for token, sees in ((5, {5}), (7, {5, 7}), (9, {9})):
            index = tokens.index(token)
            seen = torch.where(visible[sample, 1 + index])[0].tolist()
            assert set(seen) == prompt | {3 + tokens.index(other) for other in sees}


def test_padding_nodes_look_somewhere():
    answers = make_batch([(1, 2, 3), (4,)], [(5,), (6,)])
    assert visible_columns(answers, torch.ones(2, 3)).any(dim=-1).all()  # a softmax over nothing would be NaN


# ---- score_answers -------------------------------------------------------------------------------------------


@pytest.fixture
def setting(make_model, make_processor, make_samples, process, two_label_task):
    """Model, processor, and five samples of different lengths, each with a task of its own."""
    processor = make_processor()
    processor.add_task(two_label_task)
    samples = [{**sample, "task": task} for sample, task in zip(make_samples(5), TASKS, strict=True)]
    return make_model(), processor, samples


def answers_of(processor, task):
    return [tuple(row) for row in processor.answer_token_ids(task)]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("index", range(5), ids=TASKS)
def test_equals_brute_force(setting, process, index, attention):
    model, processor, samples = setting
    model.language_model.set_attn_implementation(attention)
    single = process(processor, [samples[index]])
    expected = brute_force(model, single, answers_of(processor, TASKS[index]))
    actual = model.score_answers(**process(processor, samples))  # in a batch of other tasks, left padded
    assert_close(actual.probabilities[index, : len(expected)], expected.exp())
    torch.testing.assert_close(actual.log_probs[index, : len(expected)], expected, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("index", range(5), ids=TASKS)
def test_tree_equals_constrained_decoding(setting, process, index):
    model, processor, samples = setting
    single = process(processor, [samples[index]])
    expected = constrained(model, single, answers_of(processor, TASKS[index]))
    output = model.score_answers(**process(processor, samples), normalization="tree")
    actual = output.probabilities[index]
    assert_close(actual[: len(expected)], expected)


def test_sets_cover_what_the_tests_claim(setting):
    _, processor, _ = setting
    lengths = {task: {len(answer) for answer in answers_of(processor, task)} for task in TASKS}
    assert len(lengths["emotion"]) > 1
    assert len(answers_of(processor, "mosei")) == 61
    low, high = answers_of(processor, "mood")
    assert high[: len(low) - 1] == low[:-1]
    assert low[-1] == high[-1] == processor.tokenizer.eos_token_id


def test_nothing_beyond_a_smaller_set(setting, process):
    model, processor, samples = setting
    output = model.score_answers(**process(processor, samples))
    assert output.probabilities.shape == (5, 61)
    assert (output.probabilities[0, 7:] == 0).all()
    assert (output.log_probs[0, 7:] == -math.inf).all()
    torch.testing.assert_close(output.probabilities.sum(dim=1), torch.ones(5))


def test_transcript_hidden_from_the_prompt(
    make_model,
    make_processor,
    make_samples,
    process,
):
    model = make_model()
    processor = make_processor(transcript_in_prompt=False)
    samples = make_samples(3)
    actual = model.score_answers(**process(processor, samples)).probabilities
    for i, sample in enumerate(samples):
        single = process(processor, [sample])
        assert single["attention_mask"].min() == 0
        expected = brute_force(model, single, answers_of(processor, None))
        assert_close(actual[i], expected.exp())


def test_single_token_answers(make_model, make_processor, make_samples, process):
    model = make_model()
    processor = make_processor()
    processor.add_task(EGMFTask("yes", "classification", labels=["y", "n"], prompt="\nAnswer:", separator=""))
    inputs = process(processor, make_samples(1), task="yes")
    assert inputs["answer_ids"].shape == (1, 2, 1)
    expected = brute_force(model, inputs, answers_of(processor, "yes"))
    assert_close(model.score_answers(**inputs).probabilities[0], expected.exp())


def test_order_of_answers_is_the_order_of_probabilities(setting, process):
    model, processor, samples = setting
    inputs = process(processor, samples[:1])
    expected = model.score_answers(**inputs).probabilities
    inputs["answer_ids"] = inputs["answer_ids"].flip(1)
    actual = model.score_answers(**inputs).probabilities
    torch.testing.assert_close(actual, expected.flip(1), atol=1e-6, rtol=0)


def test_task_ids_and_expert_names_pass_through(setting, process):
    model, processor, samples = setting
    inputs = process(processor, samples)
    output = model.score_answers(**inputs)
    assert torch.equal(output.task_ids, inputs["task_ids"])
    assert output.expert_names == ("local", "semantic", "global")
    assert output.expert_weights.shape == (5, 3)
    assert output.modality_mask.shape == (5, 3)


def test_scoring_in_training_mode_is_warned_of(make_model, make_processor, make_samples, process):
    model = make_model(fusion_dropout=0.5)
    inputs = process(make_processor(), make_samples(3))
    expected = model.score_answers(**inputs).probabilities
    with pytest.warns(UserWarning, match=r"Dropout changes answers: call model\.eval"):
        model.train().score_answers(**inputs)
    with warnings.catch_warnings(action="error", category=UserWarning):
        assert torch.equal(model.eval().score_answers(**inputs).probabilities, expected)


def test_no_gradient_is_kept(setting, process):
    model, processor, samples = setting
    assert not model.score_answers(**process(processor, samples[:1])).probabilities.requires_grad


def test_bfloat16_scores_are_close_to_float32(
    make_model,
    make_processor,
    make_samples,
    process,
):
    inputs = process(make_processor(), make_samples(3))
    exact = make_model(lora=None).score_answers(**inputs).probabilities
    half = make_model(lora=None, dtype=torch.bfloat16).score_answers(**inputs).probabilities
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.15, rtol=0)


def test_unknown_normalization_is_refused(setting, process):
    model, processor, samples = setting
    with pytest.raises(ValueError, match=r"`normalization` is 'mean'; use one of sequence, tree"):
        model.score_answers(**process(processor, samples[:1]), normalization="mean")


def test_labels_are_refused(setting, process):
    model, processor, samples = setting
    inputs = process(processor, samples[:1])
    with pytest.raises(ValueError, match="already contain an answer"):
        model.score_answers(**inputs, labels=inputs["input_ids"])
    with pytest.raises(ValueError, match=r"already contain an answer. Call the processor without `answer`"):
        model.score_answers(**process(processor, samples, answer=["joy", "高兴", 0.5, 0.2, "low"]))


def test_answers_must_be_given(setting, process):
    model, processor, samples = setting
    inputs = process(processor, samples)
    del inputs["answer_ids"]
    with pytest.raises(ValueError, match=r"`answer_ids` is missing; give all that processor\(text=...\) returns"):
        model.score_answers(**inputs)


def test_prefix_without_end_marker_is_refused(setting, process):
    model, processor, samples = setting
    inputs = process(processor, samples[:1])
    inputs["answer_ids"] = torch.tensor([[[5, -1], [5, 6]]])
    with pytest.raises(ValueError, match="end both with an end token"):
        model.score_answers(**inputs)


def test_duplicates_are_refused(setting, process):
    model, processor, samples = setting
    inputs = process(processor, samples[:1])
    inputs["answer_ids"] = torch.tensor([[[5, 6], [5, 6]]])
    with pytest.raises(ValueError, match="same tokens"):
        model.score_answers(**inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids.where(ids < 0, ids + 10_000), r"contains token 10\d+; the language model has \d+ tokens"),
        (lambda ids: ids.float(), "type torch.float32; give whole numbers"),
        (lambda ids: ids[0], r"has shape \(\d+, \d+\)"),
    ],
)
def test_answers_of_another_tokenizer_are_refused(setting, process, change, message):
    model, processor, samples = setting
    inputs = process(processor, samples[:1])
    inputs["answer_ids"] = change(inputs["answer_ids"])
    with pytest.raises(ValueError, match=f"`answer_ids` .*{message}"):
        model.score_answers(**inputs)


# ---- answers that are not numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_samples_without_finite_answers_are_named(number):
    answers = make_batch([(5,), (6,)], [(5,), (6,)], [(5,)])
    edges = torch.zeros(3, 2)
    edges[1, 0] = number
    with pytest.raises(ValueError, match=r"The answers of samples \[1\] in the batch of 3 are not finite numbers"):
        answers.log_probs(edges, "sequence")


@pytest.mark.parametrize("normalization", ["sequence", "tree"])
def test_nan_in_the_weights_gives_no_answer(setting, process, normalization):
    model, processor, samples = setting
    model.get_output_embeddings().weight.data[3] = math.nan  # a token that no answer has
    with pytest.raises(ValueError, match=r"samples \[0, 1, 2, 3, 4\] in the batch of 5 .* weights contain NaN"):
        model.score_answers(**process(processor, samples), normalization=normalization)
