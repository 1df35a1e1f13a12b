# The same steps as `make install`, with all that a command of `refinery` needs and without the development tools.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/refinery
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY worker ./worker
COPY trading_system ./trading_system
RUN /opt/refinery/bin/python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[embedded,console,report,tuning,parquet,postgres,demo]'

FROM python:3.11.14-slim-bookworm
RUN groupadd --system --gid 10001 refinery \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/refinery refinery \
    && install -d -o refinery -g refinery -m 0700 /var/lib/refinery
COPY --from=build /opt/refinery /opt/refinery
ENV PATH=/opt/refinery/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    REFINERY_STATE_DIR=/var/lib/refinery
USER 10001:10001
WORKDIR /var/lib/refinery
VOLUME /var/lib/refinery
STOPSIGNAL SIGTERM
ENTRYPOINT ["refinery"]
CMD ["worker"]
