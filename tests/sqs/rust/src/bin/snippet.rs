use aws_sdk_sqs::{Client, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let sqs = Client::new(&aws_config::load_from_env().await);
    let queue = sqs.create_queue().queue_name("jobs").send().await?;
    let url = queue.queue_url().unwrap_or_default();
    sqs.send_message().queue_url(url).message_body("hello").send().await?;
    let received = sqs.receive_message().queue_url(url).wait_time_seconds(20).send().await?;
    for message in received.messages() {
        println!("{}", message.body().unwrap_or_default());
        let handle = message.receipt_handle().unwrap_or_default();
        sqs.delete_message().queue_url(url).receipt_handle(handle).send().await?;
    }
    Ok(())
}
