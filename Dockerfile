# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /build
# On ARM, the machine that runs it may have larger pages than the one that builds it: up to 64 KiB.
ENV AARCH64_UNKNOWN_LINUX_GNU_JEMALLOC_SYS_WITH_LG_PAGE=16
# The dependencies first, with an empty program, so that they are built again only when they change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --profile dist --locked \
    && rm -r src target/dist/pgmq-gateway target/dist/deps/*pgmq_gateway*
COPY pgmq-gateway.example.toml askama.toml ./
COPY migrations migrations
COPY src src
# Copied files may be older than the empty program's.
RUN touch src/main.rs src/lib.rs && cargo build --profile dist --locked

FROM debian:bookworm-slim
# Certificates, for PostgreSQL over TLS: the newest are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /build/target/dist/pgmq-gateway /usr/local/bin/pgmq-gateway
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
# Every address of the container. There the gateway does not start without a key, unless
# PGMQ_GATEWAY__AUTH__MODE=none says that whoever reaches it may come in.
ENV PGMQ_GATEWAY__SERVER__HOST=0.0.0.0
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["pgmq-gateway", "healthcheck"]
ENTRYPOINT ["pgmq-gateway"]
