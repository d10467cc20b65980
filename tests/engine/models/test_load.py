import json
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from engine.core.errors import InputError
from engine.models import savedmodel
from engine.models.inputs import model_inputs
from engine.models.load import build_model, load_model, spec_of
from engine.models.loss import TrainingLoss, parse_loss
from engine.models.weight_paths import layer_at, layer_number, weight_variables
from tests.support import nets

LEGACY = Path(__file__).parents[2] / "data" / "legacy"
LEGACY_MODELS = [f"{name}{suffix}" for name in ("sequential", "functional") for suffix in (".h5", "-savedmodel")]
REAL = os.environ.get("REPAIR_DIST_LEGACY_MODELS")


def sequential(*layers, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *layers])


def classifier(operations=True):
    """A model with arithmetic on tensors, attention, a nested model and a layer with more state."""
    backbone_input = keras.Input((6,))
    backbone = keras.Model(backbone_input, keras.layers.Dense(6, name="inner")(backbone_input), name="backbone")
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv")(images)
    x = keras.layers.Reshape((9, 4))(x + x if operations else x)
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = keras.layers.Dense(6, activation="gelu", kernel_regularizer="l2", name="wide")(
        x[:, 0] if operations else keras.layers.GlobalMaxPool1D()(x)
    )
    x = keras.layers.BatchNormalization(name="norm")(backbone(keras.layers.Dropout(0.5)(x)))
    return keras.Model(images, keras.layers.Dense(5, activation="softmax", name="out")(x), name="classifier")


def images(model, rows=3):
    return np.random.default_rng(0).random((rows, *model.input_shape[1:]), dtype=np.float32)


def outputs(model, rows=3):
    return np.asarray(model(images(model, rows), training=False))


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    """A compiled model with values that are not those of a fresh one, and the outputs it gives."""
    model = classifier()
    generator = np.random.default_rng(3)
    model.set_weights([generator.random(weight.shape, dtype=np.float32) for weight in model.get_weights()])
    model.compile("sgd", keras.losses.CategoricalCrossentropy())
    path = tmp_path_factory.mktemp("keras") / "classifier.keras"
    model.save(path)
    return path, outputs(model)


def edit_config(source, target, edit):
    """Copy a `.keras` file with its configuration changed by `edit`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                edit(config)
                content = json.dumps(config).encode()
            new.writestr(name, content)
    return target


def edit_metadata(folder, edit):
    """Change the metadata of a SavedModel's root object."""
    path = folder / savedmodel.METADATA
    message = savedmodel.metadata_class().FromString(path.read_bytes())
    root = next(node for node in message.nodes if node.node_path == "root")
    metadata = json.loads(root.metadata)
    edit(metadata)
    root.metadata = json.dumps(metadata)
    path.write_bytes(message.SerializeToString())


def layer_config(config, name):
    return next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == name)


def copy_legacy(name, folder):
    source, target = LEGACY / name, folder / name
    shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    return target


# What loads


@pytest.mark.parametrize("name", LEGACY_MODELS)
def test_legacy_models_give_the_outputs_of_tensorflow_2_15(name):
    loaded = load_model(LEGACY / name)
    with np.load(LEGACY / f"{name.split('-')[0].split('.')[0]}.npz") as expected:
        np.testing.assert_allclose(
            loaded.model(expected["images"], training=False), expected["outputs"], rtol=0, atol=1e-6
        )
    functional = name.startswith("functional")
    assert loaded.format == ("h5" if name.endswith(".h5") else "savedmodel")
    assert loaded.loss == TrainingLoss("categorical_crossentropy", from_logits=functional, stated=True)
    assert loaded.input_shape == ((32, 32, 3) if functional else (28, 28, 1))
    assert loaded.classes == 10
    assert not loaded.model.compiled


def test_keras_file_gives_the_same_outputs(keras_file, tmp_path):
    path, expected = keras_file
    loaded = load_model(path)
    np.testing.assert_array_equal(outputs(loaded.model), expected)
    assert (loaded.format, loaded.input_shape, loaded.classes) == ("keras", (8, 8, 3), 5)
    assert loaded.loss == TrainingLoss("categorical_crossentropy", from_logits=False, stated=True)
    other_suffix = shutil.copyfile(path, tmp_path / "classifier.model")
    np.testing.assert_array_equal(outputs(load_model(other_suffix).model), expected)


def test_h5_file_of_keras_3_gives_the_same_outputs(tmp_path):
    model = classifier(operations=False)  # Keras cannot read its own HDF5 files with operations
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    model.save(tmp_path / "model.h5")
    loaded = load_model(tmp_path / "model.h5")
    np.testing.assert_array_equal(outputs(loaded.model), outputs(model))
    assert loaded.loss == TrainingLoss("binary_crossentropy", from_logits=True, stated=True)


def test_folder_with_one_model_among_image_sets(keras_file, tmp_path):
    shutil.copyfile(keras_file[0], tmp_path / "model.keras")
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["images"] = np.zeros((1, 8, 8, 3))
    assert load_model(tmp_path).path == tmp_path / "model.keras"
    copy_legacy("sequential.h5", tmp_path)
    with pytest.raises(InputError, match=r"found model\.keras, sequential\.h5 in the folder, expected exactly one"):
        load_model(tmp_path)


def test_fingerprint_follows_the_content(tmp_path):
    for name in ("sequential.h5", "sequential-savedmodel"):
        path = copy_legacy(name, tmp_path)
        before = load_model(path).fingerprint
        assert before == load_model(LEGACY / name).fingerprint
        assert len(before) == 64
        if path.is_dir():
            (path / "train.h5").write_bytes(b"not part of the model")
            assert load_model(path).fingerprint == before
            (path / "assets").mkdir(exist_ok=True)
            (path / "assets" / "names.txt").write_text("part of the model")
        else:
            with h5py.File(path, "r+") as file:
                file.attrs["note"] = "changed"
        assert load_model(path).fingerprint != before


@pytest.mark.skipif(not REAL, reason="REPAIR_DIST_LEGACY_MODELS names no folder with the large legacy models")
def test_large_legacy_models_agree():
    first = load_model(Path(REAL) / "fashion-cnn.h5")
    second = load_model(Path(REAL) / "fashion-cnn-savedmodel")
    np.testing.assert_array_equal(outputs(first.model, 16), outputs(second.model, 16))
    assert first.loss == second.loss == TrainingLoss("categorical_crossentropy", from_logits=False, stated=True)
    assert layer_number(first.model, first.model.layers[-1]) == 8


# Names, numbers, specifications


def test_weights_have_one_path_each_in_model_order(keras_file):
    model = load_model(keras_file[0]).model
    variables = weight_variables(model)
    assert [id(variable) for variable in variables.values()] == [id(variable) for variable in model.weights]
    assert {"conv/kernel", "attention/query/kernel", "attention/attention_output/bias"} <= set(variables)
    assert {"backbone/inner/kernel", "norm/moving_variance", "out/bias"} <= set(variables)


def test_weight_paths_do_not_depend_on_how_the_model_was_built():
    rnn = keras.layers.Bidirectional(keras.layers.LSTM(2), name="both")
    model = sequential(keras.layers.TimeDistributed(keras.layers.Flatten()), rnn, keras.layers.Dense(3))
    assert len(weight_variables(model)) == len(model.weights) == 8
    rebuilt = build_model(spec_of(model))
    assert list(weight_variables(rebuilt)) == list(weight_variables(model))
    np.testing.assert_array_equal(outputs(rebuilt), outputs(model))


def test_layer_numbers_of_the_toolkit():
    functional, plain = load_model(LEGACY / "functional.h5").model, load_model(LEGACY / "sequential.h5").model
    assert layer_number(functional, functional.get_layer("images")) == 0
    assert layer_number(functional, functional.get_layer("logits")) == 8
    assert plain.layers[0].name == "conv2d"
    assert layer_number(plain, plain.get_layer("dense")) == 4
    for model in (functional, plain):
        for number, layer in enumerate(model.layers):
            assert layer_at(model, number) is layer
        for number in (-1, len(model.layers)):
            with pytest.raises(InputError, match=f"found layer number {number}, expected 0 to"):
                layer_at(model, number)
    with pytest.raises(InputError, match="no layer 'dense_1' at its top level"):
        layer_number(functional, functional.get_layer("head").layers[0])


@pytest.mark.parametrize("name", ["classifier", *LEGACY_MODELS])
def test_spec_survives_pickling(name, keras_file):
    model = load_model(keras_file[0] if name == "classifier" else LEGACY / name).model
    rebuilt = build_model(pickle.loads(pickle.dumps(spec_of(model))))
    np.testing.assert_array_equal(outputs(rebuilt), outputs(model))
    assert list(weight_variables(rebuilt)) == list(weight_variables(model))


@pytest.mark.parametrize("shape", [(12,), (5, 4), (4, 4, 4, 1)])
def test_rows_of_any_shape(shape, tmp_path):
    model = sequential(keras.layers.Flatten(), keras.layers.Dense(3), shape=shape)
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    assert (loaded.input_shape, loaded.classes, loaded.inputs) == (shape, 3, ())


def test_several_inputs(tmp_path):
    question = keras.Input((5,), dtype="int32", name="question")
    answer = keras.Input((2, 3), name="answer")
    x = keras.layers.Flatten()(keras.layers.Embedding(9, 2)(question))
    end = keras.layers.Dense(4)(keras.layers.Concatenate()([x, keras.layers.Flatten()(answer)]))
    keras.Model([question, answer], end).save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    assert (loaded.input_shape, loaded.classes) == ((11,), 4)
    assert loaded.inputs == (("question", (5,)), ("answer", (2, 3)))
    rebuilt = build_model(pickle.loads(pickle.dumps(spec_of(loaded.model))))
    rows = [np.arange(10).reshape(2, 5) % 9, np.ones((2, 2, 3))]
    np.testing.assert_array_equal(rebuilt(rows), loaded.model(rows))


def test_a_model_of_fixed_batches(tmp_path):
    start = keras.Input(batch_shape=(4, 6))
    keras.Model(start, keras.layers.Dense(3)(start)).save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"m\.keras: found input shape \(4, 6\), expected \(None, ...\) with fixed"):
        load_model(tmp_path / "m.keras")


def test_operations_on_tensors_that_run_no_code(tmp_path):
    start = keras.Input((4,), dtype="int32")
    first, *_ = keras.ops.unstack(keras.ops.stop_gradient(keras.ops.cast(start, "float32"))[:, None], axis=1)
    model = keras.Model(start, keras.layers.Dense(3)(first))
    model.save(tmp_path / "m.keras")
    rows = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(load_model(tmp_path / "m.keras").model(rows), model(rows))


def test_a_text_as_input(tmp_path):
    start = keras.Input((1,), dtype="string", name="words")
    keras.Model(start, keras.layers.Flatten()(start)).save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"m\.keras: found an input 'words' of text, expected numbers"):
        load_model(tmp_path / "m.keras")


# Subclassed models


@pytest.fixture
def subclassed(tmp_path):
    """A subclassed model in a file, and what it gives for two rows of tokens."""
    model = nets.Subclassed(name="net")
    tokens = np.arange(10, dtype=np.float32).reshape(2, 5)
    expected = np.asarray(model(tokens))
    model.compile("sgd", CCE)
    model.save(tmp_path / "net.keras")
    return tmp_path / "net.keras", tokens, expected


def forget(*classes):
    """As in a process that has not imported the module of these classes."""
    for class_name in classes:
        keras.saving.get_custom_objects().pop(f"nets>{class_name}")
    sys.modules.pop(nets.__name__)


def test_a_subclassed_model_needs_leave(subclassed):
    with pytest.raises(InputError) as caught:
        load_model(subclassed[0])
    assert str(caught.value) == (
        f"{subclassed[0]}: the stored model is a 'Subclassed', expected a Sequential or Functional model "
        "(pass --allow-custom-code if you trust the file and its module)"
    )


def test_a_subclassed_model_in_a_new_process_and_on_a_worker(subclassed, monkeypatch):
    path, tokens, expected = subclassed
    monkeypatch.setitem(sys.modules, nets.__name__, nets)
    for class_name in ("Subclassed", "Block"):
        monkeypatch.setitem(keras.saving.get_custom_objects(), f"nets>{class_name}", getattr(nets, class_name))
    forget("Subclassed", "Block")
    loaded = load_model(path, allow_custom_code=True)
    assert nets.__name__ in sys.modules
    assert (loaded.input_shape, loaded.classes, loaded.inputs) == ((5,), 3, ())
    assert loaded.loss == TrainingLoss(CCE, from_logits=False, stated=True)
    np.testing.assert_array_equal(loaded.model(tokens, training=False), expected)
    spec = pickle.loads(pickle.dumps(spec_of(loaded.model)))
    forget("Subclassed", "Block")
    rebuilt = build_model(spec, allow_custom_code=True)
    np.testing.assert_array_equal(rebuilt(tokens, training=False), expected)
    assert list(weight_variables(rebuilt)) == list(weight_variables(loaded.model))
    again = build_model(spec_of(rebuilt), allow_custom_code=True)
    assert model_inputs(again) == model_inputs(loaded.model)
    with pytest.raises(InputError, match="model specification: the stored model is a 'Subclassed'"):
        build_model(spec)


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("no_such_nets", r"'else>Net' is of the module 'no_such_nets', which cannot be imported \(No module named"),
        ("tests.support.reader", r"cannot build the model stored in it \(Could not locate class 'Subclassed'"),
        ("bad_nets", r"'bad_nets', which cannot be imported \(division by zero\), expected it on Python's path"),
    ],
)
def test_a_module_that_does_not_give_the_class(module, found, subclassed, tmp_path, monkeypatch):
    (tmp_path / "bad_nets.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    path = edit_config(
        subclassed[0], tmp_path / "m.keras", lambda config: config.update(module=module, registered_name="else>Net")
    )
    with pytest.raises(InputError, match=rf"m\.keras: .*{found}"):
        load_model(path, allow_custom_code=True)


def _with_two_inputs():
    model = nets.TwoInputs()
    model([np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32)])
    return model


def _with_open_length():
    model = nets.Subclassed()
    model(keras.KerasTensor((None, None)))
    return model


def _called(model):
    model(np.zeros((1, 4), np.float32))
    return model


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (
            nets.Subclassed,
            "the model's input shape is not stored, expected a model of fixed input shape that was built",
        ),
        (_with_two_inputs, "the subclassed model 'TwoInputs' does not store the shape of one input, expected one that"),
        (_with_open_length, r"found input shape \(None, None\), expected \(None, ...\) with fixed sizes"),
        (
            lambda: _called(nets.NeedsNumbers()),
            r"the model cannot be run on rows of shape \(4,\) \(.+\), expected one that",
        ),
    ],
)
def test_subclassed_models_whose_rows_are_not_known(make, found, tmp_path):
    make().save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=rf"m\.keras: {found}"):
        load_model(tmp_path / "m.keras", allow_custom_code=True)


# Losses

CCE, BCE = "categorical_crossentropy", "binary_crossentropy"
losses, stored = keras.losses, keras.saving.serialize_keras_object


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (CCE, (CCE, False)),
        ("sparse_categorical_crossentropy", (CCE, False)),
        ("bce", (BCE, False)),
        ([BCE], (BCE, False)),
        ({"out": CCE}, (CCE, False)),
        (
            {"class_name": "CategoricalCrossentropy", "config": {"from_logits": True, "label_smoothing": 0.0}},
            (CCE, True),
        ),
        ({"class_name": "LossFunctionWrapper", "config": {"fn": CCE, "from_logits": True}}, (CCE, True)),
        (stored(losses.SparseCategoricalCrossentropy(from_logits=True)), (CCE, True)),
        (stored(losses.BinaryCrossentropy()), (BCE, False)),
        (stored(losses.categorical_crossentropy), (CCE, False)),
    ],
)
def test_stored_losses(loss, expected):
    loss = parse_loss(loss, sequential(keras.layers.Flatten()), source="m.h5")
    assert (loss.name, loss.from_logits, loss.stated) == (*expected, True)


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        ("mse", "'mse'"),
        (stored(losses.CategoricalFocalCrossentropy()), "'CategoricalFocalCross"),
        (stored(losses.CategoricalCrossentropy(label_smoothing=0.1)), "smoothing 0.1"),
        (stored(losses.SparseCategoricalCrossentropy(ignore_class=0)), "class 0"),
        ([CCE, CCE], "'categorical_crossentropy'"),
    ],
)
def test_losses_that_are_not_supported(loss, found):
    with pytest.raises(InputError, match=rf"m\.h5: found the loss .*{found}.*, expected .*without label smoothing"):
        parse_loss(loss, sequential(keras.layers.Flatten()), source="m.h5")


def test_unsupported_loss_is_refused_when_the_model_is_loaded(tmp_path):
    model = classifier()
    model.compile("sgd", "mse")
    model.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"m\.keras: found the loss 'mse'"):
        load_model(tmp_path / "m.keras")


@pytest.mark.parametrize(
    ("last", "from_logits"),
    [
        ([keras.layers.Dense(3)], True),
        ([keras.layers.Dense(3, activation="softmax")], False),
        ([keras.layers.Dense(3), keras.layers.Softmax()], False),
        ([keras.layers.Dense(3), keras.layers.Activation("sigmoid"), keras.layers.Dropout(0.1)], False),
        ([keras.layers.Dense(3), keras.layers.Activation("linear")], True),
        ([sequential(keras.layers.Dense(3, activation="softmax"), shape=(192,))], False),
    ],
)
def test_loss_that_is_not_stored_follows_the_last_activation(last, from_logits, tmp_path):
    sequential(keras.layers.Flatten(), *last).save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras").loss == TrainingLoss(CCE, from_logits, stated=False)


def test_softmax_operation_ends_a_model(tmp_path):
    start = keras.Input((8, 8, 3))
    scores = keras.ops.softmax(keras.layers.Dense(3)(keras.layers.Flatten()(start)))
    keras.Model(start, scores).save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras").loss == TrainingLoss(CCE, False, stated=False)


# Nothing in a file runs


@pytest.fixture
def trap(tmp_path):
    """A Lambda layer that leaves a marker where it runs, the marker, and its stored code."""
    marker = tmp_path / "marker"
    function = eval(f"lambda x: (__import__('pathlib').Path({str(marker)!r}).touch(), x)[1]")
    layer = keras.layers.Lambda(function, name="trap")  # no output shape: it runs while the model is built
    return layer, marker, layer.get_config()["function"]["config"]["code"]


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_lambda_does_not_run(suffix, trap, tmp_path):
    layer, marker, _ = trap
    path = tmp_path / f"m.{suffix}"
    sequential(layer, keras.layers.Flatten(), keras.layers.Dense(3)).save(path)
    marker.unlink()
    with pytest.raises(InputError, match=rf"m\.{suffix}: layer 'trap' uses 'Lambda'.*--allow-custom-code"):
        load_model(path)
    assert not marker.exists()
    load_model(path, allow_custom_code=True)
    assert marker.exists(), "the trap must be one that works"


def test_lambda_in_a_savedmodel_does_not_run(trap, tmp_path):
    _, marker, code = trap
    folder = copy_legacy("sequential-savedmodel", tmp_path)
    function = {"class_name": "__tuple__", "items": [code, None, None]}
    config = {"name": "trap", "function": function, "function_type": "lambda", "output_shape_type": "raw"}
    stored = {"class_name": "Lambda", "config": config}
    edit_metadata(folder, lambda metadata: metadata["config"]["layers"].append(stored))
    with pytest.raises(InputError, match=r"layer 'trap' uses 'Lambda'.*--allow-custom-code"):
        load_model(folder)
    assert not marker.exists()
    load_model(folder, allow_custom_code=True)
    assert marker.exists(), "the trap must be one that works"


def _replaced(module, name, **settings):
    settings = settings or {"name": "evil"}
    changes = {"module": module, "class_name": name, "config": settings, "registered_name": None}
    return lambda config: layer_config(config, "wide").update(changes)


def _activation(value):
    return lambda config: layer_config(config, "wide")["config"].update(activation=value)


LAMBDA = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "evil"}, "registered_name": None}
FUNCTION = {"class_name": "function", "registered_name": "get_file", "config": "get_file"}


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (_replaced("keras.layers", "TFSMLayer", name="evil", filepath="x"), "layer 'evil' uses 'TFSM"),
        (_replaced("keras.layers", "StringLookup", name="evil", vocabulary="/etc/passwd"), "'StringL"),
        (_replaced("keras.layers", "TextVectorization"), "'TextVectorization'"),
        (_replaced("keras.layers", "TorchModuleWrapper"), "'TorchModuleWrapper'"),
        (_replaced("keras.layers", "JaxLayer"), "'JaxLayer'"),
        (_replaced("os", "system"), "'system' of os"),
        (_replaced("keras.utils", "get_file", origin="http://x"), "'get_file' of keras.utils"),
        (_replaced("keras.src.ops.numpy", "Vectorize"), "'Vectorize'"),
        (_replaced("keras.src.ops.core", "Map"), "'Map'"),
        (_replaced(["keras.layers"], "Dense"), "uses 'Dense'"),
        (_replaced("keras.layers", ["Dense"]), "uses"),
        (_replaced("keras.layers", "TimeDistributed", name="shell", layer=LAMBDA), "layer 'evil' uses 'Lambda'"),
        (lambda c: layer_config(c, "wide").update(registered_name="evil>Dense"), "registered as 'evil>Dense'"),
        (_activation({**FUNCTION, "module": "keras.utils"}), "layer 'wide' uses 'get_file' of keras.utils"),
        (_activation({**FUNCTION, "module": "builtins"}), "'get_file' of builtins"),
        (_activation({**FUNCTION, "config": "eval", "module": "builtins"}), "'eval' of builtins"),
        (_activation({"class_name": "__lambda__", "config": {"code": ""}}), "uses '__lambda__'"),
        (_activation({"class_name": "__typespec__", "config": []}), "uses '__typespec__'"),
        (_activation("deserialize"), "layer 'wide' has activation 'deserialize'"),
        (lambda c: c.update(class_name="MyModel", module="mine"), "the stored model is a 'MyModel'"),
    ],
)
def test_code_by_any_other_name_is_refused(edit, found, keras_file, tmp_path):
    path = edit_config(keras_file[0], tmp_path / "m.keras", edit)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert found in str(caught.value)
    assert "--allow-custom-code" in str(caught.value)


def test_the_spec_of_a_worker_is_checked_too(trap):
    layer, marker, _ = trap
    spec = spec_of(sequential(layer, keras.layers.Flatten()))
    marker.unlink()
    with pytest.raises(InputError, match="layer 'trap' uses 'Lambda'"):
        build_model(spec)
    assert not marker.exists()
    build_model(spec, allow_custom_code=True)
    assert marker.exists()


@pytest.mark.parametrize("kind", ["external", "soft", "storage"])
def test_weights_in_another_file_are_refused(kind, tmp_path):
    path = copy_legacy("sequential.h5", tmp_path)
    with h5py.File(path, "r+") as file, h5py.File(tmp_path / "other.h5", "w") as other:
        name = "model_weights/dense/dense/bias:0"
        other["bias"] = file[name][...]
        del file[name]
        if kind == "external":
            file[name] = h5py.ExternalLink("other.h5", "/bias")
        elif kind == "soft":
            file[name] = h5py.SoftLink("/model_weights/conv2d")
        else:
            file.create_dataset(name, (10,), "f4", external=[(str(tmp_path / "raw"), 0, 40)])
    with pytest.raises(InputError, match=r"link, expected a file without links|kept in another file"):
        load_model(path)


# What does not load


def test_missing_and_unknown(tmp_path):
    for name, content, found in (
        ("missing.keras", None, "no such file or folder"),
        ("text.keras", b"hello", "unknown format"),
        ("empty.h5", b"", "unknown format"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: .*{found}, expected a \.keras file, an HDF5 model or"):
            load_model(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: found no model in the folder, expected exactly one"):
        load_model(tmp_path / "folder")
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(InputError, match=r"images\.h5: found an HDF5 file without a model configuration"):
        load_model(tmp_path / "images.h5")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["classifier.keras", "sequential.h5"])
def test_files_cut_short(name, share, keras_file, tmp_path):
    content = (keras_file[0] if name == "classifier.keras" else LEGACY / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=f"{name}: "):
        load_model(path)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize(
    "name",
    ["keras_metadata.pb", "saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"],
)
def test_savedmodel_files_cut_short(name, share, tmp_path):
    folder = copy_legacy("sequential-savedmodel", tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"sequential-savedmodel.*: damaged"):
        load_model(folder)


def test_savedmodel_without_its_parts(tmp_path):
    folder = copy_legacy("functional-savedmodel", tmp_path)
    (folder / "variables" / "variables.index").rename(tmp_path / "index")
    with pytest.raises(InputError, match=r"variables\.index: no such file"):
        load_model(folder)
    (folder / "keras_metadata.pb").unlink()
    with pytest.raises(InputError, match=r"without keras_metadata\.pb .*expected one saved by Keras 2"):
        load_model(folder)


def test_damaged_bytes_are_noticed(keras_file, tmp_path):
    content = bytearray(keras_file[0].read_bytes())
    with zipfile.ZipFile(keras_file[0]) as archive:
        info = archive.getinfo("model.weights.h5")
    content[info.header_offset + info.file_size // 2] ^= 0xFF
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.keras: damaged archive \(Bad CRC-32"):
        load_model(tmp_path / "m.keras")


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"class_name": "Sequential"}', "[" * 100_000])
def test_configurations_that_are_none(content, keras_file, tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(keras_file[0]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name == "config.json" else old.read(name))
    with pytest.raises(InputError, match=r"m\.keras: "):
        load_model(path)
    h5 = copy_legacy("sequential.h5", tmp_path)
    with h5py.File(h5, "r+") as file:
        del file.attrs["model_config"]
        file.attrs["model_config"] = content if len(content) < 60_000 else content[:60_000]
    with pytest.raises(InputError, match=r"sequential\.h5: "):
        load_model(h5)
    folder = copy_legacy("sequential-savedmodel", tmp_path)
    edit_metadata(folder, lambda metadata: metadata.update(config=content))
    with pytest.raises(InputError, match="sequential-savedmodel: "):
        load_model(folder)


def test_weights_that_do_not_fit(keras_file, tmp_path):
    def widen(config):
        layer_config(config, "wide")["config"]["units"] = 7

    with pytest.raises(InputError, match=r"m\.keras: "):
        load_model(edit_config(keras_file[0], tmp_path / "m.keras", widen))
    h5 = copy_legacy("sequential.h5", tmp_path)
    with h5py.File(h5, "r+") as file:
        del file["model_weights/dense/dense/bias:0"]
        file["model_weights/dense/dense/bias:0"] = np.zeros(9, np.float32)
    with pytest.raises(InputError, match=r"weight 'dense/bias' has shape \(9,\), expected the model's \(10,\)"):
        load_model(h5)
    with h5py.File(h5, "r+") as file:
        del file["model_weights/dense/dense/bias:0"]
    with pytest.raises(InputError, match="found no dataset 'dense/bias:0' of layer 'dense'"):
        load_model(h5)
    folder = copy_legacy("sequential-savedmodel", tmp_path)
    edit_metadata(folder, lambda metadata: metadata["config"]["layers"][-1]["config"].update(units=9))
    with pytest.raises(InputError, match=r"weight 'dense/kernel' has shape \(18, 10\), expected the model's \(18, 9\)"):
        load_model(folder)


def test_savedmodel_that_lacks_a_layers_weights(tmp_path):
    folder = copy_legacy("sequential-savedmodel", tmp_path)

    def append(metadata):
        dense = metadata["config"]["layers"][-1]
        metadata["config"]["layers"].append({**dense, "config": {**dense["config"], "name": "more"}})

    edit_metadata(folder, append)
    with pytest.raises(InputError, match="found no weights of layer 'more'"):
        load_model(folder)


def _two_outputs(start):
    flat = keras.layers.Flatten()(start)
    return [keras.layers.Dense(3)(flat), keras.layers.Dense(3)(flat)]


def _tokens(start):
    return keras.layers.Dense(3)(keras.layers.LSTM(2)(keras.layers.Embedding(9, 2)(start)))


@pytest.mark.parametrize(
    ("shape", "ends", "found"),
    [
        ((8, 8, 3), _two_outputs, "2 outputs, expected one"),
        ((8, 8, 3), keras.layers.Conv2D(2, 3), r"output shape \(None, 6, 6, 2\), expected \(None, classes\)"),
        (
            (),
            lambda x: keras.layers.Dense(3)(x[:, None]),
            r"input shape \(None,\), expected \(None, ...\) with fixed sizes",
        ),
        ((None, None, 3), keras.layers.GlobalMaxPool2D(), r"input shape \(None, None, None, 3\), expected \(None"),
        ((None,), _tokens, r"input shape \(None, None\), expected \(None, ...\) with fixed sizes \(pad rows"),
    ],
)
def test_models_that_do_not_map_rows_to_classes(shape, ends, found, tmp_path):
    start = keras.Input(shape)
    keras.Model(start, ends(start)).save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=rf"m\.keras: found {found}"):
        load_model(tmp_path / "m.keras")


def test_model_without_an_input_shape(tmp_path):
    def strip(config):
        config.pop("build_config", None)
        config["config"].pop("build_input_shape", None)
        config["config"]["layers"].pop(0)
        for layer in config["config"]["layers"]:
            layer.pop("build_config", None)

    sequential(keras.layers.Flatten(), keras.layers.Dense(3)).save(tmp_path / "old.keras")
    with pytest.raises(InputError, match=r"m\.keras: the model's input shape is not stored"):
        load_model(edit_config(tmp_path / "old.keras", tmp_path / "m.keras", strip))


@pytest.mark.parametrize("dtype", ["S20", h5py.string_dtype()], ids=["bytes", "text"])
def test_names_of_weights_that_are_no_text(dtype, tmp_path) -> None:
    path = tmp_path / "model.h5"
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax", name="scores")])
    model.save(path)
    with h5py.File(path, "r+") as file:
        group = file["model_weights/scores"]
        del group.attrs["weight_names"]
        group.attrs.create("weight_names", [b"\xff/kernel", b"scores/bias"], dtype=dtype)
    with pytest.raises(InputError, match="weight_names of /model_weights/scores are no UTF-8 text, expected"):
        load_model(path)
