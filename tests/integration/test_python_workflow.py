"""The whole workflow from Python, with names of `engine` and `cluster` alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

import cluster
import engine

SETTINGS = engine.SearchSettings(swarm=engine.SwarmSettings(num_particles=20), num_iterations=8)


def test_from_an_image_set_to_a_patched_model(batchspace: Path) -> None:
    images = engine.open_image_set(Path("chunks/0/repair.h5"))
    loaded = engine.load_model(Path("model.keras"))
    target = engine.resolve_target(loaded.model, loaded.loss, loaded.classes, loaded.path)
    with cluster.Compute(cluster.ComputeOptions(num_workers=0), lambda line: None) as compute:
        handle = compute.handle(loaded, target)
        # Rows right and wrong, and the weights to blame.
        engine.write_targets(images, compute.predict(handle, images), Path("found"))
        folder = Path("found/negative/6")
        negatives, positives = engine.open_negatives(folder), engine.open_positives(Path("found/positive"))
        assert negatives is not None and positives is not None
        blamed = cluster.localise(compute, handle, negatives, positives)
        assert isinstance(blamed, engine.Localisation) and len(blamed.index) == len(blamed.front) > 0
        old = target.kernel[blamed.index[:, 0], blamed.index[:, 1]]
        target.write_localised(folder, blamed.index, old)
        # One repair.
        chunk = cluster.ChunkPaths(folder, Path("found/positive"), output=Path("repaired"))
        (report,) = cluster.repair(
            cluster.Repairs(loaded, target, [chunk], range(2), SETTINGS),
            compute,
            lambda facts: cluster.RunRecords.create(Path("runs/one"), facts, overwrite=False),
        )
        assert cluster.read_table(Path("runs/one"), "jobs").num_rows == 2
        # Many at once, to requirements.
        validation = engine.open_image_set(Path("val.h5"))
        batch = cluster.Batch(
            model=loaded,
            target=target,
            chunks=cluster.open_chunks(Path("chunks"), loaded),
            labels=(6,),
            weightings=(cluster.Weighting("0.15x", replace(SETTINGS, positive_worth=0.15)),),
            seeds=(0,),
            mode="independent",
            max_rounds=1,
            offers=2,
            num_grad=None,
            impact="mean",
            fronts=1,
            requirements=engine.default_goals((6,), images.label_names),
            stated=False,
            validation=validation,
            test=None,
            positives=(),
            output=Path("runs/many"),
        )
        assert cluster.check_batch(batch) == []
        assert cluster.run_recorded(batch, compute) == 0
        # What a patch does, judged on rows that chose nothing.
        patch = engine.read_patch(Path("runs/many/patch.arrow"))
        engine.save_patched(loaded, patch, Path("by_hand") / "model.keras")
        held_out = engine.open_image_set(Path("test.h5"))
        before = compute.predict(handle, held_out)
        after = compute.predict(compute.handle(engine.load_model(Path("by_hand/model.keras"))), held_out)
    comparison = engine.compare(held_out.labels, before, after, held_out.classes)
    verdicts = engine.check_requirements(batch.requirements, comparison)
    assert len(verdicts) == len(batch.requirements)
    assert Path("by_hand/model.keras").read_bytes() == Path("runs/many/repair/model.keras").read_bytes()
    assert report.patch.new.dtype == np.float32 and report.model.is_file()
