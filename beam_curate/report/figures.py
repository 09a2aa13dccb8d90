"""The pictures of a report, with what is known of each sample."""

import math
from collections.abc import Mapping

from beam_curate.report.html import Element, foreign, shorten, tag
from beam_curate.report.samples import Gallery, Place, Row
from beam_curate.report.thumbnails import Thumbnail

Images = Mapping[Place, Thumbnail]


def gallery_section(gallery: Gallery, images: Images, blur_from: float) -> Element:
    """A gallery under its title.

    Args:
        gallery: The samples.
        images: The pictures of at least these samples, by place.
        blur_from: Pictures of samples with this NSFW score or more are blurred until a reader points at them.
    """
    figures = [_figure(row, gallery.column, images[row.place], blur_from) for row in gallery.rows]
    inside = tag("div", *figures, class_="figures") if figures else tag("p", "No such sample.", class_="quiet")
    return tag("div", tag("h3", foreign(gallery.title, 60)), inside, class_="gallery")


def _figure(row: Row, column: str, image: Thumbnail, blur_from: float) -> Element:
    first = [column] if column in row.values else []
    names = [*first, *(name for name in row.values if name not in first)]
    values = [
        f"{shorten(name, 20)}\u00a0{number(row.values[name])}" for name in names if math.isfinite(row.values[name])
    ]
    caption = tag(
        "figcaption",
        tag("span", row.status, class_=f"badge badge-{row.status}"),
        tag("b", values[0]) if values and first else None,
        tag("span", " · ".join(values[len(first) :]), class_="quiet"),
        foreign(row.key, 60, class_="name"),
        foreign(row.caption, 90, class_="text") if row.caption.strip() else None,
    )
    return tag("figure", frame(row, image, blur_from), caption)


def number(value: float) -> str:
    """A score in four digits, larger numbers whole."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def frame(row: Row | None, image: Thumbnail, blur_from: float) -> Element:
    """The picture of a sample, or why there is none.

    Args:
        row: The sample; None if only its place is known, and then there is no picture.
        image: The picture.
        blur_from: See gallery_section.
    """
    if row is None or not image.uri:
        words = image.problem.replace("_", " ")
        missing = tag("span", words, class_="missing", role="img", aria_label=f"No picture: {words}")
        return tag("div", missing, class_="frame")
    title = f"Sample: {shorten(row.caption, 90) or shorten(row.key, 60)}"
    size = {"width": str(image.width), "height": str(image.height)}
    if not row.values.get("nsfw", -math.inf) >= blur_from:
        return tag("div", tag("img", src=image.uri, alt=title, **size), class_="frame")
    picture = tag("img", src=image.uri, alt=f"{title} (blurred)", class_="blurred", **size)
    return tag("div", picture, class_="frame", tabindex="0", title="Point at the picture to see it clearly")
