"""Write Grafana's dashboards from ``panels.py``: ``python deploy/observability/dashboards.py``."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from panels import DASHBOARDS, Dashboard, Panel  # noqa: E402

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
PANEL_WIDTH, PANEL_HEIGHT = 12, 8


def _panel(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(SOURCE)
        .legend(legend.placement(LegendPlacement.BOTTOM))
        .span(PANEL_WIDTH)
        .height(PANEL_HEIGHT)
    )
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
        built.with_target(target.ref_id(chr(ord("A") + number)))
    return built


def render(board: Dashboard) -> str:
    """Return a dashboard's JSON."""
    source = dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["aloraserve"])
        .refresh("10s")
        .time("now-1h", "now")
        .with_variable(source)
    )
    for panel in board.panels:
        built.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def main() -> None:
    """Write each dashboard into the folder ``dashboards``."""
    for board in DASHBOARDS:
        (FOLDER / "dashboards" / f"{board.uid.removeprefix('aloraserve-')}.json").write_text(render(board), "utf-8")


if __name__ == "__main__":
    main()
