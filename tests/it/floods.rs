//! Trouble that comes by the thousand: the log, and whoever makes it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::RequestBuilder;

use crate::{
    auth::key,
    support::{
        Answer, Client, TestDatabase, TestGateway, eventually,
        process::{Program, program},
    },
};

/// The number behind a field of a line.
fn number(line: &str, field: &str) -> usize {
    let rest = line.split_once(&format!("{field}=")).map_or("0", |(_, rest)| rest);
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

/// Has a send take for as long as nothing is in a table.
pub const WAIT_FOR_GO: &str = "
    CREATE TABLE public.go (n int);
    CREATE FUNCTION public.wait_for_go() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        WHILE NOT EXISTS (SELECT FROM public.go) LOOP PERFORM pg_sleep(0.02); END LOOP;
        RETURN NEW;
    END $$;
    CREATE TRIGGER wait_for_go BEFORE INSERT ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.wait_for_go()";

/// Until such a send is under way.
pub async fn until_it_waits(database: &TestDatabase) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event = 'PgSleep' AND query LIKE '/* send%'";
    eventually("it waits", async || (database.value::<i64>(waiting).await > 0).then_some(())).await;
}

#[tokio::test]
async fn refused_requests_do_not_flood_the_log_and_all_are_told_of() {
    const REFUSED: usize = 400;
    let database = TestDatabase::new().await;
    let url = database.url();
    let environment = [
        ("DATABASE_URL", &*url),
        ("PGMQ_GATEWAY__SERVER__PORT", "0"),
        ("PGMQ_GATEWAY__LIMITS__MAX_REQUESTS", "1"),
    ];
    let mut gateway = Program::start(program(&[], &environment));
    let client = gateway.client().await;
    client.create("q").await;
    database.execute(WAIT_FOR_GO).await;
    let sender = tokio::spawn({
        let client = client.clone();
        async move { client.send("q", r#"{"message":1}"#).await }
    });
    until_it_waits(&database).await;
    let refused = async |number: usize| {
        let request =
            client.request("GET", "/queues").header("x-request-id", format!("r-{number}"));
        assert_eq!(request.send().await.expect("answered").status(), 503);
    };
    refused(0).await;
    join_all((1..REFUSED).map(refused)).await;
    database.execute("INSERT INTO public.go VALUES (1)").await;
    sender.await.expect("stored");
    let told = async || {
        let log = gateway.log();
        let warnings = log.lines().filter(|line| line.contains("WARN"));
        let warnings: Vec<String> =
            warnings.filter(|line| line.contains("overloaded")).map(str::to_owned).collect();
        let lines = warnings.iter().filter(|line| line.contains("request_id=")).count();
        let left_out: usize = warnings.iter().map(|line| number(line, "left_out")).sum();
        (lines + left_out == REFUSED).then_some(warnings)
    };
    // Nobody has to ask once more for it.
    let warnings = eventually("all are told of", told).await;
    assert!(warnings[0].contains("r-0"), "the first is there: {}", warnings[0]);
    assert!(warnings.len() < REFUSED / 4, "{} lines", warnings.len());
}

/// How a client asks for the queues, and the status of an answer that it gets too often.
type Door = (fn(&Client) -> RequestBuilder, u16);

const DOORS: [Door; 2] = [
    (|client| client.request("GET", "/queues"), 429),
    (|client| client.request("POST", "/").header("x-amz-target", "AmazonSQS.ListQueues"), 403),
];

/// Asks until it is refused, and for how long that took.
async fn refused_after(client: &Client, (ask, status): Door) -> Duration {
    loop {
        let begun = Instant::now();
        if Answer::of(ask(client)).await.status == status {
            return begun.elapsed();
        }
    }
}

/// Who comes again at once is answered later, and nobody else is.
#[tokio::test]
async fn who_is_refused_again_and_again_is_answered_later() {
    const PAUSE: Duration = Duration::from_millis(500);
    let names = ["the-key-of-somebody-greedy", "the-key-of-somebody-else"];
    let gateway = TestGateway::with(|settings| {
        settings.auth.keys =
            vec![key("greedy", names[0], &["receive:*"]), key("other", names[1], &["receive:*"])];
        for key in &mut settings.auth.keys {
            key.requests_per_second = Some(1);
        }
    })
    .await;
    let [greedy, other] = names.map(|name| gateway.with_key(name));
    for door in DOORS {
        let crowd = || join_all((0..60).map(|_| refused_after(&greedy, door)));
        // On a slow machine, what may be refused at once comes back meanwhile.
        eventually("some are held back", async || {
            let times = crowd().await;
            times.iter().any(|time| *time >= PAUSE).then_some(())
        })
        .await;
        eventually("others are not", async || {
            let (_, of_other) = tokio::join!(crowd(), refused_after(&other, door));
            (of_other < PAUSE).then_some(())
        })
        .await;
    }
}
