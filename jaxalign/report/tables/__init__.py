"""Tables for a terminal, a page, a spreadsheet and a paper, from one description."""

from jaxalign.report.result_table import Cell as Cell
from jaxalign.report.tables.formats import FORMATS as FORMATS
from jaxalign.report.tables.formats import to_csv as to_csv
from jaxalign.report.tables.formats import to_latex as to_latex
from jaxalign.report.tables.formats import to_markdown as to_markdown
from jaxalign.report.tables.model import Column as Column
from jaxalign.report.tables.model import Table as Table
from jaxalign.report.tables.text import to_text as to_text
