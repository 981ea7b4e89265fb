"""The page of `nnunetv2_clip check`: one HTML file with the matrix of sources and classes and a picture per case."""

from datetime import datetime

from nnunetv2_clip.imaging.pictures import hex_color
from nnunetv2_clip.pages import millilitres, render


def render_check(check) -> str:
    """The HTML of a `dataset_conversion.check.Check`."""
    names = check.class_names
    return render(
        "check.html.j2",
        title="Check of downloads",
        check=check,
        problems=check.problems,
        class_names=names,
        matrix=[
            (name, hex_color(check.taxonomy.find(name)), [_cell(source, name) for source in check.sources])
            for name in names
        ],
        num_cases=sum(source.num_found for source in check.sources),
        space=in_words(sum(source.num_bytes for source in check.sources)),
        created=datetime.now().strftime("%Y-%m-%d %H:%M"),
    )


def in_words(num_bytes: int) -> str:
    """A number of bytes for people."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def _cell(source, name: str) -> dict[str, str]:
    annotated, (drawn, incomplete) = source.num_annotated(name), source.num_incomplete(name)
    if not annotated and not incomplete:
        return {"text": "absent" if source.num_absent(name) else "", "volume": ""}
    texts = [f"{source.num_occurring(name)}/{annotated}"] if annotated else []
    texts += [f"incomplete {drawn}/{incomplete}"] if incomplete else []
    volume = source.volume_ml(name)
    return {"text": ", ".join(texts), "volume": f"{millilitres(volume)} ml" if volume else ""}
