//! PostgreSQL that speaks another language (`lc_messages`).

use crate::support::TestGateway;

/// Lines of context in which PL/pgSQL says that a statement of a trigger raised it, and others.
const RAISED: [&str; 6] = [
    "PL/pgSQL function public.f() line 3 at RAISE",
    "PL/pgSQL-Funktion public.f() Zeile 3 bei RAISE",
    "PL/pgSQL関数public.f()の3行目 - RAISE",
    r#"PL/pgSQL 함수 "public.f()" 의 3번째 RAISE"#,
    "在RAISE的第3行的PL/pgSQL函数public.f()",
    "public.f() PL/pgSQL fonksiyonu, 3. satır, RAISE içinde",
];
const NOT_RAISED: [&str; 4] = [
    "PL/pgSQL function public.f() line 3 at PERFORM",
    r#"PL/pgSQL function public."RAISE"() line 3 at PERFORM"#,
    "在PERFORM的第3行的PL/pgSQL函数public.raised()",
    "SQL statement \"SELECT 1\"\nPL/pgSQL function public.f() line 3 at RAISE",
];

#[tokio::test]
async fn what_a_trigger_raises_is_known_from_an_end_in_all_languages() {
    let gateway = TestGateway::start().await;
    for (lines, is_told_to_stop) in [(&RAISED[..], false), (&NOT_RAISED, true)] {
        for line in lines {
            let ask = format!("SELECT pgmq_gateway.is_told_to_stop('57014', '{line}')");
            assert_eq!(gateway.database.value::<bool>(&ask).await, is_told_to_stop, "{line}");
        }
    }
}
