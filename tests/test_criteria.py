"""What was measured of prospects: nothing but a person's judgement is one."""

from __future__ import annotations

from datetime import date

from clv.criteria import judged_prospects
from clv.period import see
from clv.tables import CORE
from clv.warehouse import Engine

AS_OF = date(2025, 3, 1)


def test_an_attribute_called_score_is_no_judgement(engine: Engine) -> None:
    for table in CORE.values():
        engine.run(f"CREATE TABLE main.{table.name} ({table.ddl()})")
    engine.run("ALTER TABLE main.customers ADD COLUMN score DOUBLE")
    engine.run("""
        INSERT INTO main.customers BY NAME
        SELECT unnest(['p1', 'p2']) AS customer_id, DATE '2025-01-01' AS first_contact_date, 7 AS score""")
    engine.run("""
        INSERT INTO main.judgements BY NAME
        SELECT 'p1' AS customer_id, 'prospect' AS criterion, 80 AS score, 'eva' AS judged_by,
            DATE '2025-02-01' AS judged_date""")
    see(engine, AS_OF)
    found = judged_prospects(engine, AS_OF).set_index("customer_id")
    assert found["score"].tolist() == [7, 7]
    assert found.loc["p1", "judgement"] == 80
    assert found["judgement"].isna().tolist() == [False, True]
