systemd-sysusers manyhands.conf
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
