"""The one place that decides which bands of a picture a model reads: by name, or by the numbers that the user gave."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from emra_deploy.errors import EmraError

RGB = ("red", "green", "blue")
"""Bands of most models, and of JPEG, PNG and video."""

_SYNONYMS = {
    "r": "red",
    "g": "green",
    "b": "blue",
    "n": "near-infrared",
    "nir": "near-infrared",
    "nearinfrared": "near-infrared",
    "nearir": "near-infrared",
    "infrared": "near-infrared",
    "ir": "near-infrared",
    "rededge": "red edge",
    "re": "red edge",
    "coastalblue": "coastal",
    "coastalaerosol": "coastal",
    "aerosol": "coastal",
    "panchromatic": "gray",
    "pan": "gray",
    "grey": "gray",
    "transparency": "alpha",
    "thermal": "thermal infrared",
    "lwir": "thermal infrared",
    "tir": "thermal infrared",
}
_OTHERS = "yellow greeni nir1 nir2 narrownir nirnarrow swir swir1 swir2 mwir vv vh hh hv ndvi dsm dtm dem height"
_KNOWN = {**_SYNONYMS, **{name: name for name in (*_OTHERS.split(), *_SYNONYMS.values(), *RGB)}}
"""Names of bands, without spaces and punctuation, and what is meant."""

_UNNAMED = ("gray", "undefined", "palette")
_DEFAULT = ("red", "green", "blue", "alpha")
"""What GDAL calls the bands of 8-bit files of three and four, unless it is told otherwise."""

_SENTINEL = {"b2": "blue", "b3": "green", "b4": "red", "b8": "near-infrared"}
"""Bands of 10 m of Sentinel-2; the first three are those of Landsat 8 and 9, too."""

_SHOWN = 12
_REMEDY = "Give the numbers of the model's bands, in the model's order: --bands 3,2,1, for example"
_NAME_TAGS = ("bandname", "band_name", "name", "common_name", "eo:common_name")
_WAVELENGTH_TAGS = ("central_wavelength_um", "wavelength", "center_wavelength", "central_wavelength")
_LENGTH = r"(\d+(?:\.\d+)?)"
_MICROMETRES = ((0.445, 0.515, "blue"), (0.54, 0.59, "green"), (0.63, 0.69, "red"), (0.785, 0.9, "near-infrared"))
"""Central wavelengths, between those of coastal, yellow and red-edge bands."""


def band_names(dataset: Any) -> tuple[str, ...]:
    """What a raster calls its bands, in lower case: ``red``, ``near-infrared``, ``alpha``, ``undefined``...

    A band's description comes first, then tags of its name and wavelength, and then its colour interpretation, which
    GDAL writes unasked. A band whose names contradict each other has both, such as ``red or blue``, and fits no model.

    Args:
        dataset: The open rasterio dataset.
    """
    tags = [{**dataset.tags(band), **dataset.tags(band, ns="IMAGERY")} for band in range(1, dataset.count + 1)]
    described = [
        [text or "", *_tagged(values, _NAME_TAGS)] for text, values in zip(dataset.descriptions, tags, strict=True)
    ]
    numbered = _numbered([[_key(text) for text in texts] for texts in described])
    names = []
    for index, (texts, values, kind) in enumerate(zip(described, tags, dataset.colorinterp, strict=True)):
        colour = band_name(kind.name)
        given = [_KNOWN.get(_key(text)) or numbered.get(_key(text)) for text in texts]
        name = next((known for known in given if known), None) or _of_wavelength(texts, values)
        unasked = colour in _UNNAMED or _DEFAULT[index : index + 1] == (colour,)
        if name is None or (name == "undefined" and not unasked):
            name = colour
        elif name != colour and not unasked:
            name = f"{name} or {colour}"
        names.append(name)
    return tuple(names)


def band_name(text: str) -> str:
    """The name that is meant by another: ``near-infrared`` by ``NIR``; in lower case if it is unknown."""
    return _KNOWN.get(_key(text), text.strip().lower())


def alpha_bands(names: Sequence[str]) -> tuple[int, ...]:
    """Numbers, from 1, of the bands that hold opacity."""
    return tuple(number for number, name in enumerate(names, 1) if name == "alpha")


def choose_bands(
    names: Sequence[str], numbers: Sequence[int] | None, path: str, wanted: Sequence[str] = RGB
) -> tuple[int, ...]:
    """Numbers, from 1, of the bands to read: three, or one that is grey or a palette.

    Args:
        names: What the file calls each of its bands, as `band_names` gives it.
        numbers: Three numbers that the user gave, or None.
        path: Of the file, for errors.
        wanted: The model's bands, in its order.

    Raises:
        EmraError: ``image-bands`` for numbers that are out of range, or bands that the file does not name or has not.
    """
    count = len(names)
    if numbers is not None:
        if len(numbers) != 3 or not all(1 <= band <= count for band in numbers):
            raise EmraError(
                "image-bands",
                f"bands {','.join(map(str, numbers))} of a raster with {count}, expected three of 1 to {count}",
                "Correct --bands",
                path,
            )
        return tuple(numbers)
    wanted = [band_name(name) for name in wanted]
    if all(names.count(name) == 1 for name in wanted):
        return tuple(names.index(name) + 1 for name in wanted)
    data = tuple(number for number in range(1, count + 1) if number not in alpha_bands(names))
    if set(wanted) == set(RGB) and all(names[number - 1] in _UNNAMED for number in data):
        if len(data) == 1:
            return data
        if len(data) == 3:
            return tuple(data[RGB.index(name)] for name in wanted)
    raise EmraError(
        "image-bands",
        f"the picture's bands are {', '.join(names[:_SHOWN])}{', ...' if count > _SHOWN else ''}; the model's bands, "
        f"{', '.join(wanted)}, are not found among them by name",
        _REMEDY if len(data) >= 3 else f"For the same band three times, give --bands {data[0]},{data[0]},{data[0]}",
        path,
    )


def _key(text: str) -> str:
    """The letters and digits that matter: ``red`` of ``Band 4 - Red (665 nm)``, ``b4`` of ``B04, 665 nm``."""
    short = re.split(r"[,(]", text.lower().replace("_", " "))[0]
    short = re.sub(r"\b\d{3,4}(\.\d+)?\s*(nm)?\b|^\s*vis-", "", short)
    without = re.sub(r"^\s*(band|channel|layer)?\s*\bb?0*\d{1,2}a?\b|\b(band|channel|reflectance)\b", "", short)
    kept = re.sub(r"[^a-z0-9]", "", without) or re.sub(r"[^a-z0-9]", "", short)
    return re.sub(r"^b0+", "b", kept)


def _numbered(keys: Sequence[Sequence[str]]) -> Mapping[str, str]:
    """What bands are that are called by numbers, such as ``B4``.

    Satellites number theirs in different ways. Sentinel-2 is known by the bands that it alone has; numbers that others
    give to other colours mean themselves, and those that only count the bands of the file mean nothing.
    """
    codes = {key for texts in keys for key in texts if re.fullmatch(r"(sr)?b\d+a?", key)}
    if codes & {"b8a", "b12"} or codes <= set(_SENTINEL):
        return {code: _SENTINEL.get(code, code) for code in codes}
    if all(f"b{place}" in texts for place, texts in enumerate(keys, 1)):
        return {}
    return {code: code for code in codes}


def _tagged(tags: Mapping[str, str], wanted: Sequence[str]) -> list[str]:
    lower = {name.lower(): value for name, value in tags.items()}
    return [lower[name] for name in wanted if name in lower]


def _of_wavelength(texts: Sequence[str], tags: Mapping[str, str]) -> str | None:
    """The band's name by its central wavelength: of tags, or of texts such as ``665.0 Nanometers``."""
    found = [re.match(_LENGTH, text.strip()) for text in _tagged(tags, _WAVELENGTH_TAGS)]
    found += [re.search(f"{_LENGTH}\\s*(nm|nanomet|um|µm|micromet)", text, re.IGNORECASE) for text in texts]
    for match in filter(None, found):
        # Nanometres or micrometres: light of more than 100 micrometres is no picture.
        length = float(match[1])
        length = length / 1000 if length > 100 else length
        return next((name for low, high, name in _MICROMETRES if low <= length <= high), "undefined")
    return None
