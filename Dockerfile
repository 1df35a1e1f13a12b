# The same steps as `make install`, without the demo and the development tools.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/refinery
COPY pyproject.toml constraints.txt README.md ./
COPY worker ./worker
COPY trading_system ./trading_system
RUN /opt/refinery/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[console]'

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/refinery --create-home refinery
COPY --from=build /opt/refinery /opt/refinery
ENV PATH=/opt/refinery/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    REFINERY_STATE_DIR=/var/lib/refinery
USER refinery
VOLUME /var/lib/refinery
STOPSIGNAL SIGTERM
ENTRYPOINT ["refinery"]
CMD ["worker"]
