# The gateway in a container: built on Rust's image, run on a slim Debian as a user without rights.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUN_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin neuronetz

FROM ${RUN_IMAGE}
RUN useradd --system --home-dir /var/lib/neuronetz --create-home neuronetz
COPY --from=build /src/target/release/neuronetz /usr/local/bin/neuronetz
USER neuronetz
ENV NEURONETZ_LISTEN=0.0.0.0:8080 \
    NEURONETZ_ADMIN_LISTEN=127.0.0.1:9090 \
    NEURONETZ_GATEWAY_DATA_DIR=/var/lib/neuronetz
VOLUME /var/lib/neuronetz
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=6s CMD ["neuronetz", "healthcheck"]
ENTRYPOINT ["neuronetz"]
CMD ["serve"]
