# The host and its stages. The build has the compiler; what runs has neither compiler nor root.
FROM rust:1.95-bookworm AS build
RUN rustup target add wasm32-unknown-unknown
WORKDIR /build
COPY . .
RUN cargo xtask build

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /app postrider
WORKDIR /app
# The symbols are in /build/target/release/postrider.debug of the first stage.
COPY --from=build /build/target/release/postrider /usr/local/bin/postrider
COPY --from=build /build/config/*.toml config/
COPY --from=build /build/plugins/*.wasm plugins/
RUN mkdir data && chown -R postrider data
USER postrider
# Others reach this address, so a host does not start before it is told who may use it: POSTRIDER_AUTH__MODE=tokens, or
# POSTRIDER_AUTH__ALLOW_ANONYMOUS=true behind something that authenticates.
ENV POSTRIDER_HTTP__LISTEN=0.0.0.0:8000
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD curl --fail --silent http://127.0.0.1:8000/health
ENTRYPOINT ["postrider"]
CMD ["serve"]
