"""Prompts: the sentences that a text encoder reads for each class."""

from collections.abc import Iterable, Sequence

from nnunetv2_clip.classes import ClassRow
from nnunetv2_clip.errors import UserError

# Source: CLIP-Driven Universal Model (ICCV 2023), Table 1; V3 is the paper's choice.
V1 = "A photo of a {}."
V2 = "There is {} in this computerized tomography."
V3 = "A computerized tomography of a {}."
MRI = "A magnetic resonance image of a {}."
TEMPLATES = {"V1": V1, "V2": V2, "V3": V3, "MRI": MRI}
DEFAULT_TEMPLATE = V3


def template_of(text: str) -> str:
    """The template that `text` names (V1, V2, V3, MRI) or is.

    Raises:
        UserError: it does not hold exactly one gap {}.
    """
    template = TEMPLATES.get(text.strip().upper(), text)
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        expected = "exactly one gap '{}', in which the class stands, and no other brace"
        remedy = f"for example {DEFAULT_TEMPLATE!r}, or one of {', '.join(TEMPLATES)}"
        raise UserError(f"--prompt {text!r}", f"the template has {template.count('{}')} gaps '{{}}'", expected, remedy)
    return template


def sentences(rows: Iterable[ClassRow], templates: Sequence[str] = (DEFAULT_TEMPLATE,)) -> tuple[tuple[str, ...], ...]:
    """One sentence per class and template; the gap takes the class's prompt noun.

    Returns:
        For each class, in order, its sentences (one per template; the encoder averages their vectors).

    Raises:
        UserError: a template without exactly one gap, or the same template twice.
    """
    resolved = [template_of(text) for text in templates]
    if len(set(resolved)) < len(resolved):
        raise UserError("--prompt", f"a template is given twice: {resolved}", "each template once")
    return tuple(tuple(template.format(row.prompt) for template in resolved) for row in rows)
