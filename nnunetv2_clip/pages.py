"""HTML pages: self-contained files from the templates of report/assets, all texts escaped."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nnunetv2_clip import __version__

TEMPLATES = Environment(
    loader=PackageLoader("nnunetv2_clip", "report/assets"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def asset(name: str) -> Markup:
    """The text of a file beside the templates (style, script) that is put into a page as it is."""
    return Markup(TEMPLATES.loader.get_source(TEMPLATES, name)[0])


TEMPLATES.globals |= {"asset": asset, "version": __version__}


def millilitres(volume: float) -> str:
    """For people: three digits, whole ones from 100 ml on."""
    return f"{volume:.0f}" if volume >= 100 else f"{volume:.3g}"


def render(template: str, **values: object) -> str:
    """The text of a page; every value that the template names must be given."""
    return TEMPLATES.get_template(template).render(values)
