"""Tiny data sets for tests."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_gan3d.cameras import Cameras

NUM = 10


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


def noise(i: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)


class Parts:
    """The files of a data set, to be spoilt before they are written."""

    def __init__(self) -> None:
        self.files = {f"img{i}.png": png(noise(i)) for i in range(NUM)}
        labels = Cameras.orbit(NUM, 0.3, 2.7, 1.5).to_label().double().tolist()
        self.index: dict[str, Any] = {"labels": [[f"img{i}.png", labels[i]] for i in range(NUM)]}

    def label(self, i: int) -> list[Any]:
        return self.index["labels"][i][1]

    def zip(self, path: Path, compression: int = zipfile.ZIP_STORED) -> str:
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in self.files.items():
                archive.writestr(name, data)
            archive.writestr("dataset.json", json.dumps(self.index))
        return str(path)

    def folder(self, path: Path) -> str:
        for name, data in self.files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        (path / "dataset.json").write_text(json.dumps(self.index))
        return str(path)
