// Sends each of the requests that the first argument lists, one after the other, with fetch, and prints
// what came of them: statuses, or the reason of a failure.
const requests = JSON.parse(process.argv[2]);
const outcomes = [];
for (const { method, url, headers, size, text } of requests) {
  const body = size === undefined ? text : "x".repeat(size);
  try {
    const answer = await fetch(url, { method, headers, body });
    await answer.text();
    outcomes.push(answer.status);
  } catch (error) {
    outcomes.push(`${error} ${error.cause?.code ?? error.cause ?? ""}`);
  }
}
console.log(JSON.stringify(outcomes));
