"""The site, by Sphinx: the guides in Markdown (MyST), and the docstrings, whose roles are Sphinx's own.

pip install -e ".[docs]" && sphinx-build -W docs site
"""

import re
import tomllib
from pathlib import Path

import proxykernels

CHECKOUT = Path(__file__).parents[1]
REPOSITORY = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

project, author, release = "proxykernels", "the proxykernels authors", proxykernels.__version__
project_copyright = author
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.githubpages",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
root_doc = "index"
templates_path = ["_templates"]
exclude_patterns = ["README.md", "notebooks/*.md", "joss"]  # the index on GitHub; what notebooks are made of
suppress_warnings = ["mystnb.unknown_mime_type", "ref.python"]  # words of prose that are names of two classes

myst_heading_anchors = 4  # named as GitHub names them
nb_execution_mode = "off"  # notebooks are run by their test
nb_merge_streams = True  # what a cell prints is one block
copybutton_exclude = ".linenos, .gp, .go"

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True

html_extra_path = ["extra"]  # the browser page, with what build_demo.py has built of it

# Members without an underscore that the package calls itself: not on the pages of these classes.
INTERNAL = {
    "Engine": "simulate new_session session tally advance last_state last_state_in state_of sizes ways",
    "FusedConv1d": "synapse",
    "FusedConv2d": "synapse",
    "FusedLinear": "synapse",
    "FusedRecurrentLinear": "synapse states repeats returning affine extra_repr",
    "FusedSum": "affine terms",
    "Population": "affine",
    "Delay": "of_channels affine extra_repr",
    "Dropout": "drops draw drop extra_repr",
    **dict.fromkeys(("ATan", "FastSigmoid", "Sigmoid", "Triangle"), "kernel"),
    **dict.fromkeys(("AdaptiveAvgPool1d", "AdaptiveAvgPool2d"), "output_of"),
    **dict.fromkeys(("Channels", "MaxPool1d", "MaxPool2d", "Unflatten", "Voting", "ZeroPad2d"), "extra_repr"),
    **dict.fromkeys(("IFNeuron", "IntegerLIFNeuron", "LoihiNeuron", "RefractoryLIFNeuron"), "check"),
    "ALIFNeuron": "scaled check",
    "LIFNeuron": "scaled rest check",
    "LINeuron": "rest check on",
}

html_theme = "furo"
html_title = f"proxykernels {release}"
html_favicon = "images/icon.svg"
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}


def link_to_repository(app, page, source):
    """What a guide links to outside docs/ is a file of the repository; pictures come along."""

    def link(found):
        path, heading = found[2], found[3] or ""
        kind = "tree" if (CHECKOUT / path).is_dir() else "blob"
        return f"{found[1]}({REPOSITORY}/{kind}/main/{path}{heading})"

    source[0] = re.sub(r"(?<!!)(\[[^]\[]*\])\(\.\./([^)#]+)(#[^)]*)?\)", link, source[0])


def link_to_extra_files(app, page, source):
    """What lies in extra/ is at the top of the site as it stands: no page that Sphinx knows."""
    source[0] = re.sub(r"\[([^]]*)\]\(extra/([^)]*)\)", r'<a href="\2">\1</a>', source[0])


def mark_literal_blocks(app, what, name, obj, options, lines):
    """An indented paragraph of a docstring, such as equations and code, is shown as it stands; shapes stand out."""
    lines[:] = [re.sub(r"^Shapes: ", "**Shapes:** ", line) for line in lines]
    marked: list[str] = []
    literal = None  # the indentation before the block
    for k, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if line and literal is not None and indent <= literal:
            literal = None
        if line and literal is None and k > 1 and not lines[k - 1]:
            before = next((text for text in reversed(lines[: k - 1]) if text), "")
            least = len(before) - len(before.lstrip())
            if indent > least and not before.strip().startswith((">>>", "-", "|")):
                literal = least
                marked += [" " * least + "::", ""]
        marked.append(line)
    lines[:] = marked


def find_by_name(app, env, node, contnode):
    """A docstring names classes and functions as users do, without their modules."""
    if node.get("refdomain") != "py":
        return None
    name, domain = node["reftarget"].removeprefix("proxykernels.").removeprefix("pk."), env.domains["py"]
    for home in ("proxykernels.", "proxykernels.layers.", "proxykernels.running.result."):
        if home + name in domain.objects:
            target = home + name
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)
    return None


def leave_out_internals(app, what, name, member, skip, options):
    """A class's page has what users call."""
    owner, _, name = getattr(getattr(member, "fget", member), "__qualname__", "").rpartition(".")
    return True if name in INTERNAL.get(owner, "").split() else None


def lead_from_source_to_pages(app, page, template, context, doctree):
    """A name that its module defines and another one shows has its page's top as target, for want of its anchor."""

    def link(found):
        known = found[2] in app.env.domains["py"].objects
        return f"{found[1]}#{found[2]}" if known else found[1]

    if page.startswith("_modules/"):
        context["body"] = re.sub(r'(class="viewcode-back" href="[^"#]*)#([^"]*)', link, context["body"])


def setup(app):
    app.connect("source-read", link_to_repository)
    app.connect("source-read", link_to_extra_files)
    app.connect("autodoc-process-docstring", mark_literal_blocks, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", leave_out_internals)
    app.connect("html-page-context", lead_from_source_to_pages)
    app.connect("missing-reference", find_by_name)
