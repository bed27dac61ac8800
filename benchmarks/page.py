"""A benchmark's page in docs/."""


def write_page(path, about, table):
    """What the benchmark says of itself, its first line for a title, and what it measured."""
    title, *rest = about.strip().split("\n\n")
    path.write_text("\n\n".join([f"# {title}", *rest, table]) + "\n")
