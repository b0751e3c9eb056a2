"""Tables and pictures of results. Only this package imports matplotlib, and only when a picture is drawn."""

from jaxalign.report.heatmap import draw_heatmaps as draw_heatmaps
from jaxalign.report.rows import Cell as Cell
from jaxalign.report.rows import Measure as Measure
from jaxalign.report.rows import ResultTable as ResultTable
from jaxalign.report.rows import Row as Row
from jaxalign.report.rows import Setting as Setting
from jaxalign.report.table import render_table as render_table
