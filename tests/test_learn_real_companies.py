"""Training on real order histories: what has no skill ends as that, and says so."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import duckdb
import numpy as np

from clv import ingest, learn
from clv.config import Config
from clv.contribution import price_lines
from clv.period import Horizon
from clv.warehouse import workspace


def test_adventureworks_where_nobody_has_ordered_twice_ends_as_no_skill(
    shared_data: Path, tmp_path: Path
) -> None:
    """As of 2016-07-01 every label is zero: nobody orders a second time before that."""
    place = shared_data / "adventureworks"
    lines = tmp_path / "lines.parquet"
    duckdb.execute(f"""
        COPY (SELECT s.OrderNumber, s.CustomerKey, s.OrderDate, s.ProductKey, s.OrderQuantity,
                s.OrderQuantity * p.ProductPrice AS net_amount, p.ProductCost
            FROM read_csv('{place}/sales_2015_2016.csv') AS s
            JOIN read_csv('{place}/products.csv') AS p USING (ProductKey)) TO '{lines}'""")
    columns = {
        "order_id": "OrderNumber",
        "customer_id": "CustomerKey",
        "order_date": "OrderDate",
        "product_id": "ProductKey",
        "quantity": "OrderQuantity",
        "net_amount": "net_amount",
        "unit_cost": "ProductCost",
    }
    config = Config.model_validate(
        {
            "company": "adventureworks",
            "reporting_currency": "USD",
            "sources": {"order_lines": {"path": str(lines), "columns": columns}},
            "lifetime_value": {"horizon_months": 3},
            "engine": {"threads": 1},
        }
    )
    as_of = date(2016, 7, 1)
    with workspace(threads=1, memory_limit="1GB") as db:
        loaded = ingest.load(db, config, date(2017, 1, 1))
        assert loaded.row_counts["order_lines"] == 26_565
        [(buyers,)] = db.rows("SELECT count(DISTINCT customer_id) FROM main.order_lines")
        assert buyers == 10_559
        ingest.load(db, config, as_of)
        basis = price_lines(db, config).basis
        learned, present = learn.learn_lifetime_value(
            db, as_of, config, basis=basis, horizon=Horizon(months=3)
        )
    assert basis == "contribution"
    assert not learned.passed
    assert learned.model.mode == "last_period"
    assert "Nobody bought anything in the label windows" in learned.why
    predicted = learned.model.predict(present)
    assert predicted["clv"].isna().all()
    assert np.isfinite(predicted["value"]).all()
