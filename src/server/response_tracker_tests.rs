//! Time for answers, on a clock that stands still.

use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::*;

const TIME: Duration = Duration::from_secs(30);
/// As many bytes as have one more second.
const PART: usize = 64 << 10;

fn follow(answers: &Arc<ResponseTracker>, bytes: usize) -> Body {
    answers.request().answer(Response::new(Body::from(vec![7; bytes]))).into_body()
}

fn none_yet() -> Arc<ResponseTracker> {
    Arc::new(ResponseTracker::new(TIME))
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_taken_is_a_stall() {
    let answers = none_yet();
    let mut body = follow(&answers, 100_000);
    body.frame().await.expect("a piece").expect("no error");
    let started = Instant::now();
    answers.stall(TIME).await;
    assert_eq!(started.elapsed(), TIME);
    drop(body);
    timeout(TIME * 10, answers.stall(TIME)).await.expect_err("nothing waits any more");
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_none() {
    let answers = none_yet();
    let mut slow = follow(&answers, 1_000_000);
    let taking = async {
        let mut bytes = 0;
        while let Some(frame) = slow.frame().await {
            bytes += frame.expect("no error").into_data().expect("data").len();
            sleep(TIME * 9 / 10).await;
        }
        bytes
    };
    tokio::select! {
        bytes = taking => assert_eq!(bytes, 1_000_000),
        () = answers.stall(TIME) => panic!("it was taken all the time"),
    }
}

#[tokio::test]
async fn pieces_are_small_and_the_whole_is_the_same() {
    let answers = none_yet();
    let mut body = follow(&answers, 40_000);
    let mut left = 40_000;
    for piece in [PIECE, PIECE, 40_000 - 2 * PIECE] {
        assert_eq!(body.size_hint().exact(), Some(left as u64));
        assert!(!body.is_end_stream());
        let frame = body.frame().await.expect("a piece").expect("no error");
        assert_eq!(frame.into_data().expect("data").len(), piece);
        left -= piece;
    }
    assert!(body.is_end_stream() && body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_time_by_its_size() {
    const SECOND: Duration = Duration::from_secs(1);
    let answers = none_yet();
    for (seconds, bytes) in [(0, 0), (1, PART), (100, 100 * PART)] {
        let started = Instant::now();
        let small = follow(&answers, 10);
        let body = follow(&answers, bytes);
        drop(small);
        answers.late().await;
        assert_eq!(started.elapsed(), TIME + SECOND * seconds);
        drop(body);
        timeout(TIME * 10, answers.late()).await.expect_err("there is none any more");
    }
    // A little at a time is no stall, but too late in the end.
    let mut slow = follow(&answers, 10 << 20);
    let taking = async {
        while slow.frame().await.is_some() {
            sleep(SECOND).await;
        }
    };
    tokio::select! {
        () = taking => panic!("16 KiB in a second are too few"),
        () = answers.stall(TIME) => panic!("it was taken all the time"),
        () = answers.late() => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_for_as_long_as_it_is_taken() {
    let answers = none_yet();
    let beats = futures_util::stream::unfold((), async |()| {
        sleep(TIME * 2).await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b"beat")), ()))
    });
    let mut body = answers.request().answer(Response::new(Body::from_stream(beats))).into_body();
    let taking = async {
        for _ in 0..10 {
            body.frame().await.expect("a beat").expect("no error");
        }
    };
    tokio::select! {
        () = taking => {}
        () = answers.stall(TIME) => panic!("it was taken all the time"),
        () = answers.late() => panic!("it has no end"),
    }
    // The last piece is not.
    let started = Instant::now();
    answers.late().await;
    assert_eq!(started.elapsed(), TIME);
    drop(body);
    timeout(TIME * 10, answers.late()).await.expect_err("there is none any more");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_without_requests() {
    let answers = none_yet();
    let started = Instant::now();
    let request = answers.request();
    timeout(TIME * 10, answers.idle(TIME)).await.expect_err("one is in hand");
    let body = request.answer(Response::new(Body::from("body"))).into_body();
    timeout(TIME * 10, answers.idle(TIME)).await.expect_err("it is being answered");
    let end = async {
        sleep(TIME / 2).await;
        drop(body);
    };
    tokio::join!(end, answers.idle(TIME));
    assert_eq!(started.elapsed(), TIME * 20 + TIME / 2 + TIME);
    let started = Instant::now();
    answers.idle(TIME).await;
    assert_eq!(started.elapsed(), TIME, "from when it was asked");
}
