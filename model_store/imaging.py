"""From the bytes of a picture to what a variant sees. The only importer of PIL; JPEG goes through `jpeg`, and
pixels in memory through `resampling`, where they can.

Two steps, so that limits hold before pixels are decoded: `probe` reads the header, `decode` makes
the upright RGB array of the wanted size, of what is as large as its header said.
"""

import io
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    __version__,
)

from model_store import exif, headers, jpeg, resampling
from model_store.manifest import Preprocessing
from model_store.sampling import sampled

UInt8Array = npt.NDArray[np.uint8]
Size = tuple[int, int]  # width, height in pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

# Imported above, so that Pillow does not look for them among the plugins of all the types that it knows.
_PLUGINS = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
)
FORMATS: tuple[str, ...] = tuple(plugin.format for plugin in _PLUGINS)
PROGRESSIVE = "JPEG-progressive"
DECODER_VERSION = ", ".join(filter(None, (f"pillow-{__version__}", jpeg.VERSION, resampling.VERSION)))

# Pillow's own guard warns on a global; the limit of `probe` takes its place, from the same header.
Image.MAX_IMAGE_PIXELS = None

MIN_SIDE = 2  # a line of single pixels shows nothing
_EXIF_ORIENTATION = 0x0112
_XMP = ("xmp", "XML:com.adobe.xmp")
_TURNED = (5, 6, 7, 8)  # orientations whose width is the upright picture's height
_WHITE = (255, 255, 255, 255)
# libjpeg decodes at 1/8, 1/4 and 1/2 for less. It can do all n/8, but those between take longer than the
# next larger one, whose arithmetic is vectorised.
_JPEG_SCALES = (8, 4, 2)
_REDUCING_GAP = 2.0  # pixels are averaged by whole factors down to twice the size, and only then weighted
_CELL = 128  # of a sample picture: colours change over that many pixels
_FILTER = Image.Resampling.BILINEAR
# What was reduced while decoding has been averaged once; the same filter again would blur it, and cost up to
# a point of top-1. This one is as wide, and as fast, but steeper: as bicubic is, which `resampling` has.
_FILTER_WHEN_REDUCED = Image.Resampling.HAMMING
_STRIP_PIXELS = 1 << 18  # which take some milliseconds
_AVERAGED_MODES = ("RGB", "RGBA", "L", "LA")
WHOLE = Preprocessing(fit="pad")


class ImageError(Exception):
    """A picture cannot be used; the text is for the caller."""


class UnsupportedImage(ImageError):
    """Not a type that we read."""


class UnreadableImage(ImageError):
    """A type that we read, but broken, truncated or empty."""


class TooManyPixels(ImageError):
    """The header announces more pixels than the limit."""

    def __init__(self, width: int, height: int, limit: int) -> None:
        super().__init__(f"the picture has {width} x {height} pixels; the limit is {limit}")
        self.width, self.height, self.limit = width, height, limit


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes tell: one of `FORMATS`, the size in pixels as stored, and the bytes in all. Of a
    JPEG also how it is coded."""

    format: str
    width: int
    height: int
    size_bytes: int
    progressive: bool = False  # in several scans
    components: int = field(default=0, compare=False)  # 1 is grey, 3 are colours
    exif: int = field(default=0, compare=False)  # see `headers.Frame`

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def coding(self) -> str:
        """The format, with what else decides how long decoding takes."""
        return PROGRESSIVE if self.progressive else self.format

    def scale(self, size: int, preprocessing: Preprocessing) -> int:
        """1, 2, 4 or 8: the reduction at which the decoder gives no less than `size` pixels need."""
        if self.format != "JPEG":
            return 1
        crops = preprocessing.fit == "crop"
        side = min(self.width, self.height) if crops else max(self.width, self.height)
        needed = size / preprocessing.central_fraction if crops else size
        for scale in _JPEG_SCALES:
            if side // scale >= needed and min(self.width, self.height) >= scale:
                return scale
        return 1


def probe(data: bytes, max_pixels: int, max_pixels_in_full: int | None = None) -> ImageHeader:
    """Reads the header only. Raises UnsupportedImage, UnreadableImage or TooManyPixels.

    `max_pixels_in_full` is for what takes memory for all its pixels when it is decoded: all but JPEGs of one
    scan.
    """
    header = _header(data)
    limit = max_pixels
    if max_pixels_in_full is not None and header.coding != "JPEG":
        limit = min(max_pixels, max_pixels_in_full)
    if header.pixels > limit:
        raise TooManyPixels(header.width, header.height, limit)
    if min(header.width, header.height) < MIN_SIDE:
        has = f"the picture has {header.width} x {header.height} pixels"
        raise UnreadableImage(f"{has}; at least {MIN_SIDE} x {MIN_SIDE} are needed")
    return header


def decode(data: bytes, size: int, preprocessing: Preprocessing) -> UInt8Array:
    """Upright RGB of shape [size, size, 3]: the central crop of TensorFlow's evaluation, resized with
    antialiasing; or, where `preprocessing` pads, the whole picture, its longer side `size`, black at the
    right or below. A JPEG may be reduced while it is decoded, never below `size`.

    EXIF orientation is applied, transparency lies on white, 16-bit values keep their high byte, and of
    an animation the first frame counts. Raises UnsupportedImage or UnreadableImage.
    """
    return decode_sized(data, size, preprocessing)[0]


def decode_sized(
    data: bytes, size: int, preprocessing: Preprocessing, header: ImageHeader | None = None
) -> tuple[UInt8Array, Size]:
    """As `decode`; and the size of the upright picture itself. `header` is what `probe` has read of the same
    bytes; without it, it is read again."""
    loaded = _load(data, header or _header(data), size, preprocessing)
    scale = loaded.scale
    try:
        if preprocessing.fit == "pad":
            step = max(loaded.stored) / size
            whole = _upright(_rgb(loaded.picture), loaded.orientation)
            return sampled(whole, size, step, scale), loaded.upright_size
        left, top, right, bottom = _central_box(loaded.stored, preprocessing.central_fraction)
        # Not the central box of the reduced picture, whose sides are rounded: it would lie up to a pixel off.
        box = (left / scale, top / scale, right / scale, bottom / scale)
        pixels = _resize(loaded.picture, size, box, reduced=scale > 1)
    except Exception as error:
        raise _damaged() from error
    return _upright(pixels, loaded.orientation), loaded.upright_size


def upright_pixels(data: bytes) -> UInt8Array:
    """Upright RGB [height, width, 3] at the size that the picture has. Raises UnsupportedImage or
    UnreadableImage."""
    return upright_picture(data)[0]


def upright_picture(data: bytes, least_side: int | None = None) -> tuple[UInt8Array, Size]:
    """Upright RGB [height, width, 3], and the size of the upright picture itself: a JPEG whose longer side
    stays `least_side` may be reduced while it is decoded, its sides divided by `ImageHeader.scale` and
    rounded up.

    Raises UnsupportedImage or UnreadableImage.
    """
    loaded = _load(data, _header(data), least_side, WHOLE)
    try:
        pixels = _rgb(loaded.picture)
    except Exception as error:
        raise _damaged() from error
    return _upright(pixels, loaded.orientation), loaded.upright_size


def resized(pixels: UInt8Array, size: int, box: Box) -> UInt8Array:
    """[size, size, 3] of the part `box` of [height, width, 3], inside it, averaged as in `decode`."""
    return _resize(pixels, size, box)


def _header(data: bytes) -> ImageHeader:
    """In microseconds, since it is read on the event loop. Raises UnsupportedImage or UnreadableImage."""
    if not data:
        raise UnreadableImage("the picture is empty")
    try:
        frame = headers.frame(data)
    except headers.HeaderError as error:
        raise UnreadableImage(str(error)) from None
    if frame is None:
        known = ", ".join(FORMATS)
        raise UnsupportedImage(f"the bytes are not of a type that we read ({known})")
    return ImageHeader(
        frame.format, frame.width, frame.height, len(data), frame.progressive, frame.components, frame.exif
    )


def _format(image: Image.Image) -> str:
    # Phones' multi-picture files are JPEG with more behind it.
    return "JPEG" if image.format == "MPO" else image.format or ""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A picture whose sides are those `stored` divided by `scale`, rounded up, not yet turned. Where `jpeg`
    has decoded it, RGB [height, width, 3] or grey [height, width, 1], until the thread decodes another."""

    picture: Image.Image | UInt8Array
    stored: Size
    scale: int
    orientation: int

    @property
    def upright_size(self) -> Size:
        width, height = self.stored
        return (height, width) if self.orientation in _TURNED else (width, height)


def _load(data: bytes, header: ImageHeader, size: int | None, preprocessing: Preprocessing) -> _Loaded:
    """Reduced as far as `size` pixels allow, if it may be. Raises UnreadableImage."""
    try:
        headers.check_parts(data, header.format, header.pixels, progressive=header.progressive)
    except headers.HeaderError as error:
        raise UnreadableImage(str(error)) from None
    stored = header.width, header.height
    scale = 1 if size is None else header.scale(size, preprocessing)
    pixels = None
    if header.components in (1, 3):
        pixels = jpeg.decode(data, stored, scale, grey=header.components == 1)
        told = exif.orientation(data, header.exif)
        if pixels is not None and told is not None:  # nothing is left for Pillow, which opens files in Python
            return _Loaded(pixels, stored, scale, told)
    image = _open(data, header)
    try:
        orientation = _orientation(image)
        if pixels is None:
            if scale > 1:
                image.draft(None, (image.width // scale, image.height // scale))
            image.load()
    except Exception as error:
        raise _damaged() from error
    return _Loaded(image if pixels is None else pixels, stored, scale, orientation)


def _damaged() -> UnreadableImage:
    """Pillow's plugins raise nearly everything on broken files, from OSError to struct.error."""
    return UnreadableImage("the picture is truncated or damaged")


def _open(data: bytes, header: ImageHeader) -> Image.Image:
    """As Pillow sees it, which has to be as the limits were checked: bytes can be made that two readers
    understand differently."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        like = f"the bytes start like {header.format}"
        raise UnreadableImage(f"{like}, but are truncated or damaged") from error
    if (_format(image), *image.size) != (header.format, header.width, header.height):
        raise UnreadableImage("the picture has two sizes")
    bits = data[24] if header.format == "PNG" and image.mode == "L" else 8
    if bits < 8 and "transparency" in image.info:  # Pillow has scaled the pixels, and not that
        image.info["transparency"] *= 255 // ((1 << bits) - 1)
    return image


def _orientation(image: Image.Image) -> int:
    """By EXIF alone, as browsers do: Pillow would take XMP's where there is none. A PNG is loaded for it,
    once: the chunk may come behind the pixels."""
    try:
        if image.format == "PNG":
            image.load()
        for key in _XMP:
            image.info.pop(key, None)
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not spoil the picture
        return 1


def _central_box(size: tuple[int, int], fraction: float) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of `tf.image.central_crop`."""
    width, height = size
    left, top = int((width - width * fraction) / 2), int((height - height * fraction) / 2)
    return left, top, width - left, height - top


def _as_image(loaded: Image.Image | UInt8Array) -> Image.Image:
    if isinstance(loaded, Image.Image):
        return loaded
    return Image.fromarray(loaded if loaded.shape[2] == 3 else loaded[:, :, 0])


def _resize(loaded: Image.Image | UInt8Array, size: int, box: Box, *, reduced: bool = False) -> UInt8Array:
    """[size, size, 3] of the part `box`, on white; `reduced` while it was decoded, with a steeper filter."""
    pixels = _resampled(loaded, size, box, reduced=reduced)
    if pixels is not None:
        return pixels
    return _resize_image(_as_image(loaded), size, box, _FILTER_WHEN_REDUCED if reduced else _FILTER)


def _resampled(loaded: Image.Image | UInt8Array, size: int, box: Box, *, reduced: bool) -> UInt8Array | None:
    """As `_resize`, where something faster than Pillow can."""
    if max(box[2] - box[0], box[3] - box[1]) >= 2 * _REDUCING_GAP * size:
        return None  # averaged by whole factors first
    if reduced and isinstance(loaded, Image.Image) and loaded.mode == "RGB":
        loaded = np.asarray(loaded)  # so that it does not matter who has decoded it
    if not isinstance(loaded, np.ndarray) or loaded.shape[2] != 3:
        return None
    return resampling.bicubic(loaded, size, box) if reduced else resampling.bilinear(loaded, size, box)


def _resize_image(image: Image.Image, size: int, box: Box, filter: Image.Resampling) -> UInt8Array:
    if image.mode not in _AVERAGED_MODES or "transparency" in image.info:
        # The crop first: less to convert.
        left, top = int(box[0]), int(box[1])
        image = _averaged(image.crop((left, top, math.ceil(box[2]), math.ceil(box[3]))))
        box = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    small = image.resize((size, size), filter, box=box, reducing_gap=_REDUCING_GAP)
    return np.asarray(_opaque_rgb(small))


def _averaged(image: Image.Image) -> Image.Image:
    """The picture in a mode whose values can be averaged."""
    if image.mode.startswith(("I", "F")):  # 16-bit grey, or wider modes that 16-bit PNG opens as
        values = np.asarray(image).astype(np.uint16)
        grey = (values >> 8).astype(np.uint8)
        if "transparency" in image.info:
            grey[values == image.info["transparency"]] = _WHITE[0]
        return Image.fromarray(grey)
    if "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        return image.convert("RGBA")
    return image.convert("RGB")


def _rgb(loaded: Image.Image | UInt8Array) -> UInt8Array:
    """A copy of the whole picture, [height, width, 3]. In strips: a conversion keeps the interpreter until it
    is done, and a copy of its own in memory."""
    if isinstance(loaded, np.ndarray) and loaded.shape[2] == 3:
        return loaded.copy()
    image = _as_image(loaded)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = image.crop((0, top, image.width, bottom))
        if strip.mode not in _AVERAGED_MODES or "transparency" in strip.info:
            strip = _averaged(strip)
        pixels[top:bottom] = np.asarray(_opaque_rgb(strip))
    return pixels


def _opaque_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(pixels: UInt8Array, orientation: int) -> UInt8Array:
    """Applies EXIF orientation 1 to 8 to [H, W, 3]."""
    if orientation in _TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def plain_picture(format: str, side: int) -> bytes:
    """A grey square of the wanted type."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (128, 128, 128)).save(buffer, format)
    return buffer.getvalue()


def sample_picture(format: str, width: int, height: int, *, grain: int, progressive: bool = False) -> bytes:
    """A picture of the wanted type and size, for measurements; `grain` is its noise, in levels.

    Smooth, a JPEG of it has 0.1 bytes a pixel, as large photos have; with a grain of 24 it has 0.4.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // _CELL + 2, width // _CELL + 2, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    if grain:
        noise = rng.integers(-grain, grain + 1, (height, width, 3), np.int16)
        noise += np.asarray(image)
        image = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, format, quality=90, progressive=progressive)
    return buffer.getvalue()
