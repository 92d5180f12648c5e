# SPDX-License-Identifier: Apache-2.0
"""What the golden files of STAGE with a decoder are compared with."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle

from engine import loader, optim
from models.stage import Model
from models.stage import decoder as parts
from models.stage.search import BANNED, BOS, EOS, PAD, UNK, Hypothesis, beam_search, greedy_search
from tools.parity import Case, Tracked

LOGP, LOSS, GRADIENT, STEP, SCORE = 1e-5, 1e-5, 1e-4, 1e-4, 1e-4

_OPTIONS = (
    "hsz", "bridge_hsz", "embedding_size", "vfeat_size", "dropout", "input_streams", "t_iter",
    "scale", "extra_span_length", "use_sup_att", "att_loss_type", "alpha", "margin", "att_weight",
    "ts_weight", "dec_layers", "dec_heads", "dec_ffn", "use_copy", "use_sub_memory", "gen_weight",
    "label_smoothing", "beam_size", "length_penalty", "max_answer_len",
)  # fmt: skip
_BLOCKS = ("n_blocks", "n_conv", "kernel_size", "n_heads")
# Options of the reader, the recipe, the discriminative head, or without effect.
_OTHER = (
    "add_local", "add_non_visual", "att_iou_thd", "bsz", "drop_topk", "hard_negative_start",
    "max_qa_l", "max_sub_l", "max_vcpt_l", "max_vid_l", "negative_pool_size", "num_hard",
    "num_negatives", "num_region", "sub_flag", "test_bsz", "vcpt_flag", "vfeat_flag", "vfeat_type",
)  # fmt: skip
# True gradient 0: a softmax does not see what is added to all of its inputs.
_NO_GRADIENT = re.compile(r"temporal_scoring_.*\.conv\.[02]\.bias|.*k_proj\.bias")


def build(config: Tracked, folder: str) -> Model:
    """The network of a case; its vocabulary is a list of so many words."""
    config.note(*_OTHER)
    path = Path(folder) / "vocabulary.json"
    path.write_text(json.dumps([str(n) for n in range(config["answer_vocab_size"])]))
    options = {name: config[name] for name in _OPTIONS if name in config}
    blocks = {f"{e}_{k}": config[f"{e}_{k}"] for e in ("input_encoder", "cls_encoder")
              for k in _BLOCKS}  # fmt: skip
    return Model(**options, **blocks, attention_dropout=0.0, answer_vocab=str(path))


def generative(case: Case) -> None:
    """Memory, log-probabilities, losses, gradients, steps and decoding of one batch."""
    z, meta = case.npz, case.json
    config = meta["config"]
    with tempfile.TemporaryDirectory() as folder:
        model = build(config, folder)
    missing, unexpected = model.set_state_dict(_ours(z.under("param/")))
    case.equal("parameters", (list(missing), list(unexpected)), ([], []))
    arrays = z.under("in/")
    for name in ("bert", "mask"):
        arrays[f"qas_{name}"] = arrays.pop(f"q_{name}")[:, None]
    arrays["copy_size"] = int(arrays["V_ext"])
    answer = arrays["target"]  # among the candidates; the encoder sees the question alone
    arrays["target"] = np.zeros_like(answer)
    batch = loader.to_tensors(arrays) | {"answer": answer}
    _check_training(case, model, batch)
    _check_evaluation(case, model, batch)
    _check_steps(case, model, batch)


def _ours(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state in our layout."""
    state = {k: v for k, v in state.items() if v.size}
    # convert() tells published states by their position table
    return Model.convert(state | {"position_encoding.pe": np.zeros((1, 1))})


def _run(model: Model, batch: dict) -> dict:
    found = model(batch)
    return found | {"t_scores": found["temporal_scores"].squeeze(1)}


def _loss(model: Model, batch: dict) -> tuple[dict, dict]:
    found = _run(model, batch)
    terms = model.loss(found, batch)
    return {"total": terms.pop("loss"), **terms}, found


def _check_training(case: Case, model: Model, batch: dict) -> None:
    z = case.npz
    model.train()
    terms, found = _loss(model, batch)
    ours, golden = found["log_probs"].numpy(), z["out/train/log_probs"]
    # The golden V_ext may count more words than there are; these have no chance.
    spare = golden.shape[-1] - ours.shape[-1] if case.json["config"]["use_copy"] else 0
    ours = np.pad(ours, [(0, 0), (0, 0), (0, max(spare, 0))], constant_values=np.log(1e-10))
    case.close("out/train/log_probs", ours, golden, LOGP)
    scores = parts.token_scores(found["log_probs"], batch["dec_tgt"])
    nll = -scores * batch["dec_mask"]
    case.close("out/train/token_nll", nll, z["out/train/token_nll"], LOGP)
    _check_memory(case, found, "train")
    seen = batch["ts_label_mask"].numpy() > 0  # elsewhere scores are -1e10
    golden = z["out/train/t_scores"]
    case.close("out/train/t_scores", found["t_scores"].numpy()[seen], golden[seen], LOGP)
    case.close("out/train/t_scores, padding", found["t_scores"], golden, LOGP, 1e-6)
    mask = found["memory"].mask.numpy()
    case.equal("out/train/memory_mask", mask.astype(np.int64), z["out/train/memory_mask"])
    for name, value in terms.items():
        case.close(f"loss/{name}", value, z[f"loss/{name}"], 1e-6, LOSS)
    terms["total"].backward()
    golden = z.under("grad/")
    marked = _ours(golden)
    for name, parameter in model.named_parameters():
        if golden[name].size == 0:
            case.equal(f"grad/{name} (unused)", parameter.grad is None, True)
        elif not _NO_GRADIENT.fullmatch(name):
            case.close(f"grad/{name}", parameter.grad, marked[name], 1e-6, GRADIENT)
    case.equal("gradients", sorted(golden), sorted(dict(model.named_parameters())))
    model.clear_gradients()


def _check_memory(case: Case, found: dict, mode: str) -> None:
    """Tokens but for padding: ours of frames that do not exist has some other piece's words."""
    z, (tokens, mask) = case.npz, found["memory"][:2]
    golden, shown = z[f"out/{mode}/memory"], mask.numpy() > 0
    case.equal(f"out/{mode}/memory: shape", tuple(tokens.shape), golden.shape)
    case.close(f"out/{mode}/memory", tokens.numpy()[shown], golden[shown], LOGP)
    case.equal(f"out/{mode}/in_span", found["in_span"].numpy(), z[f"out/{mode}/in_span"])


def _check_evaluation(case: Case, model: Model, batch: dict) -> None:
    z, decode = case.npz, case.json["decode"]
    model.eval()
    with paddle.no_grad():
        found = _run(model, batch)
        _check_memory(case, found, "eval")
        for i, side in enumerate(("st", "ed")):
            key = f"out/eval/span_{side}"
            case.equal(key, found["spans"][:, i], z[key])
        ids, mask = _padded(decode["candidates"])
        first = np.full_like(ids[..., :1], BOS)
        given = paddle.to_tensor(np.concatenate([first, ids[..., :-1]], -1))
        logp = model.decoder(given, found["source"])
        scores = parts.token_scores(logp, paddle.to_tensor(ids))
        mean, total = parts.answer_scores(scores, paddle.to_tensor(mask))
    for name, value in (("mean", mean), ("sum", total)):
        case.close(f"out/eval/mc_{name}", value, z[f"out/eval/mc_{name}"], SCORE)
        right = (value.numpy().argmax(1) == batch["answer"]).mean()
        case.close(f"decode/mc_acc_{name}", right, decode[f"mc_acc_{name}"], 0)
    _check_decoding(case, model, found["source"])


def _padded(answers: list[list[list[int]]]) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (N, 5, T) padded with 0, and their mask."""
    length = max(len(a) for row in answers for a in row)
    ids = np.array([[a + [PAD] * (length - len(a)) for a in row] for row in answers])
    sizes = np.array([[len(a) for a in row] for row in answers])
    return ids, (np.arange(length) < sizes[..., None]).astype(np.float32)


def _check_decoding(case: Case, model: Model, source: parts.Source) -> None:
    meta = case.json
    decode, samples = meta["decode"], source.bias.shape[0]
    case.equal("special", meta.plain("special"), {"pad": PAD, "unk": UNK, "bos": BOS, "eos": EOS})
    case.equal("banned", meta["banned"], list(BANNED))
    limit = {"max_length": meta["max_answer_len"]}
    found = greedy_search(model.decoder.steps(source), samples, **limit)
    _check_answers(case, "greedy", found, decode["greedy"])
    limit |= {"size": meta["beam_size"], "length_penalty": meta["length_penalty"]}
    beams = beam_search(model.decoder.steps(source), samples, **limit)
    golden, name = decode["beam"], "beam"
    _check_answers(case, name, [b[0] for b in beams], golden)
    columns, cut = case.npz["out/train/log_probs"].shape[-1], int(case.npz["in/V_ext"])
    if columns != cut and not _same(beams, golden):
        name, beams = f"beam misread at {cut}", []
        for n in range(samples):
            step = model.decoder.steps(source.select(paddle.to_tensor([n])))
            beams += beam_search(_Misread(step, cut), 1, banned=(), **limit)
    for n, (ours, theirs) in enumerate(zip(beams, golden, strict=True)):
        _check_answers(case, f"{name} {n}, all", ours, theirs["all"])


def _same(ours: list[list[Hypothesis]], golden: list[dict]) -> bool:
    theirs = [[h["tokens"] for h in g["all"]] for g in golden]
    return [[h.tokens for h in beam] for beam in ours] == theirs


class _Misread:
    """The search that made the golden file of the model without copying.

    Its flat list of candidates has V columns per hypothesis and was cut at V_ext = V + 1: token t
    after hypothesis p was taken for token t - p, and the decoder went on with that one. Hypothesis
    0 is not touched, and the best answers, which come from it, equal ours. The other finished ones
    can be compared by making the same mistake only: here, on the way into our search.
    """

    def __init__(self, step: Any, cut: int):
        self.step, self.cut, self.totals = step, cut, None

    def __call__(self, tokens: np.ndarray, samples: np.ndarray, parents: np.ndarray) -> np.ndarray:
        logp = np.array(self.step(tokens, samples, parents))
        logp[..., BANNED] = -np.inf
        sums = np.zeros(1, np.float32)
        if self.totals is not None:
            sums = self.totals[parents[0], tokens[0]]
        flat = (sums[:, None] + logp[0]).ravel()
        flat = np.pad(flat, (0, -len(flat) % self.cut), constant_values=-np.inf)
        self.totals = flat.reshape(-1, self.cut)
        return (self.totals - sums[: len(self.totals), None])[None]


def _check_answers(case: Case, name: str, ours: list[Hypothesis], golden: list[dict]) -> None:
    case.equal(f"{name}: tokens", [h.tokens for h in ours], [g["tokens"] for g in golden])
    for key in ("logp", "score"):
        theirs = [g[key] for g in golden if key in g]
        if theirs:
            case.close(f"{name}: {key}", [getattr(h, key) for h in ours], theirs, SCORE)


def _check_steps(case: Case, model: Model, batch: dict) -> None:
    z, config = case.npz, case.json["config"]
    recipe = SimpleNamespace(
        optimizer="adam", learning_rate=config["lr"], beta1=0.9, beta2=0.999, epsilon=1e-8,
        weight_decay=config["wd"], clip_norm=config["clip"], adam_eps_mode="standard",
    )  # fmt: skip
    optimizer: Any = optim.build(model, recipe)
    model.train()
    for k in range(len(z.under("step/")) // 2):
        terms, _ = _loss(model, batch)
        case.close(f"step/{k}/loss", terms["total"], z[f"step/{k}/loss"], 0, STEP)
        terms["total"].backward()
        norm = optim.clip_gradients(model.parameters(), recipe.clip_norm)
        case.close(f"step/{k}/grad_norm", norm, z[f"step/{k}/grad_norm"], 0, STEP)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
    golden = z.under("after/")
    after = _ours(golden)
    for name, parameter in model.named_parameters():
        if golden[name].size and not _NO_GRADIENT.fullmatch(name):
            case.close(f"after/{name}", parameter, after[name], 1e-4)
    case.equal("parameters afterwards", sorted(golden), sorted(dict(model.named_parameters())))
