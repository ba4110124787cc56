# The service as an image: built with OpenSSL and zlib inside, so that the last stage needs nothing but a C library.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --features static && cp target/release/dispatcher target/release/content-worker /usr/local/bin/

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/dispatcher /usr/local/bin/content-worker /usr/local/bin/
USER nobody
# In a container, loopback is nobody.
ENV DISPATCHER_HTTP__LISTEN=0.0.0.0:8080 DISPATCHER_ADMIN__LISTEN=0.0.0.0:8081
EXPOSE 8080 8081
ENTRYPOINT ["dispatcher"]
CMD ["serve"]
