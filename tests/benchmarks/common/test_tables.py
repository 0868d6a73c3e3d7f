"""Tables as LaTeX."""

from benchmarks.common.tables import TextTable


def test_latex():
    table = TextTable("50 % & more", ("a_b", "c^~"), [["[1, 2]", r"x\y"]])
    lines = table.latex().splitlines()
    assert lines[1] == r"\caption{50 \% \& more}"
    assert lines[5] == r"{a\_b} & {c\textasciicircum{}\textasciitilde{}} \\"
    assert lines[7] == r"{[1, 2]} & {x\textbackslash{}y} \\"
