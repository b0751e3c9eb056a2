"""Tables and pictures of results. Only this package imports matplotlib, and only when a picture is drawn."""

from jaxalign.report.figures.heatmap import draw_heatmaps as draw_heatmaps
from jaxalign.report.records import Row as Row
from jaxalign.report.result_table import Cell as Cell
from jaxalign.report.result_table import Measure as Measure
from jaxalign.report.result_table import ResultTable as ResultTable
from jaxalign.report.result_table import Setting as Setting
from jaxalign.report.sections.aggregates import render_table as render_table
